// Takes and releases OpenClaw's own session write lock: commands on standard input, answers on standard output, one on a
// line. OpenClaw recognizes its own processes by a name such as this file's. A test that must not be recognized runs a
// copy with another name.
import { readdirSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const dist = join(process.env.OPENCLAW_MODULES, "openclaw", "dist");
const name = readdirSync(dist).find((file) =>
  /^session-write-lock-.*\.js$/.test(file) &&
  /export \{[^}]*\bacquireSessionWriteLock\b[^}]*\}/.test(readFileSync(join(dist, file), "utf8")));
if (!name) throw new Error("no module exports acquireSessionWriteLock");
const { acquireSessionWriteLock } = await import(pathToFileURL(join(dist, name)).href);

let lock;
for await (const line of createInterface({ input: process.stdin })) {
  const [command, sessionFile, timeoutMs, maxHoldMs] = line.split(" ");
  try {
    if (command === "acquire") {
      lock = await acquireSessionWriteLock({ sessionFile, timeoutMs: Number(timeoutMs), maxHoldMs: Number(maxHoldMs) });
    } else if (command === "release") {
      await lock.release();
    }
    console.log("ok");
  } catch (error) {
    console.log(`failed ${error.code ?? error.name} ${String(error.message).replaceAll("\n", " ")}`);
  }
}
process.exit(0);
