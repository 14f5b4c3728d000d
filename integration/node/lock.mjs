// Takes one of npm's or OpenClaw's locks: lock.mjs KIND FILE. Prints "held", waits for a line
// on standard input, releases it and exits. It exits with 1 if another process has the lock. With PATIENT set it
// retries as usual: OpenClaw's lock for up to a minute, proper-lockfile 5 times as its README does.
import { createRequire } from "node:module";
import { readdirSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const require = createRequire(import.meta.url);
const patient = Boolean(process.env.PATIENT);

async function openclaw(file) {
  const dist = join(import.meta.dirname, "node_modules", "openclaw", "dist");
  const name = readdirSync(dist).find((entry) =>
    /^session-write-lock-.*\.js$/.test(entry) &&
    /export \{[^}]*\bacquireSessionWriteLock\b[^}]*\}/.test(readFileSync(join(dist, entry), "utf8")));
  const { acquireSessionWriteLock } = await import(pathToFileURL(join(dist, name)).href);
  const lock = await acquireSessionWriteLock({ sessionFile: file, timeoutMs: patient ? 60_000 : 1, maxHoldMs: 600_000 });
  return () => lock.release();
}

const take = {
  "proper-lockfile": (file) => require("proper-lockfile").lock(file, { realpath: false, retries: patient ? 5 : 0 }),
  lockfile: async (file) => {
    const lockfile = require("lockfile");
    lockfile.lockSync(`${file}.lock`);
    return () => lockfile.unlockSync(`${file}.lock`);
  },
  openclaw,
};

const [kind, file] = process.argv.slice(2);
try {
  const release = await take[kind](file);
  console.log("held");
  await new Promise((resolve) => process.stdin.once("data", resolve).once("end", resolve));
  await release();
  process.exit(0);
} catch (error) {
  console.error(error.code ?? error.name, error.message);
  process.exit(1);
}
