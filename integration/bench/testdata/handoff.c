// Measures the time from the release of a lock, or the death of its holder, until a waiting process has it.
// Usage: handoff flock|wait|poll release|kill ROUNDS FILE [WAIT-FILE | MICROSECONDS]
// Prints microseconds, one round on a line. Holder and waiter are two children of the program.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
	volatile int held, waiting, release, done;
	volatile double from, to;
} *shared;

static const char *mode, *file, *extra;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void fail(const char *what)
{
	perror(what);
	kill(0, SIGKILL);
}

// The waiter reads its clock at once. The other processes sleep, so that they do not take a processor from it.
static void await(volatile int *flag)
{
	while (!*flag)
		usleep(200);
}

static int create(void)
{
	char pid[16];
	int fd = open(file, O_CREAT | O_EXCL | O_WRONLY, 0644);
	if (fd < 0)
		return -1;
	shared->to = now();
	int n = snprintf(pid, sizeof pid, "%d\n", getpid());
	if (write(fd, pid, n) != n)
		fail("write");
	close(fd);
	return 0;
}

static int acquire(void)
{
	char answer[256];
	if (!strcmp(mode, "flock")) {
		int fd = open(file, O_CREAT | O_RDWR, 0644);
		if (fd < 0 || flock(fd, LOCK_EX))
			fail("flock");
		shared->to = now();
		return fd;
	}
	while (create()) {
		if (errno != EEXIST)
			fail(file);
		if (!strcmp(mode, "poll")) {
			usleep(atoi(extra));
			continue;
		}
		int fd = open(extra, O_RDONLY);
		if (fd < 0 || read(fd, answer, sizeof answer) < 0)
			fail(extra);
		close(fd);
	}
	return -1;
}

static void release(int fd)
{
	if (fd >= 0 ? flock(fd, LOCK_UN) : unlink(file))
		fail("release");
}

int main(int argc, char **argv)
{
	if (argc < 5)
		return 2;
	setpgid(0, 0);
	mode = argv[1], file = argv[4], extra = argc > 5 ? argv[5] : "";
	int killed = !strcmp(argv[2], "kill");
	shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int round = atoi(argv[3]); round > 0; round--) {
		memset(shared, 0, sizeof *shared);
		pid_t holder = fork();
		if (!holder) {
			int fd = acquire();
			shared->held = 1;
			await(&shared->release);
			shared->from = now();
			release(fd);
			pause();
		}
		await(&shared->held);
		pid_t waiter = fork();
		if (!waiter) {
			shared->waiting = 1;
			int fd = acquire();
			shared->done = 1;
			release(fd);
			_exit(0);
		}
		await(&shared->waiting);
		usleep(5000 + rand() % 5000); // now the waiter waits, or sleeps between two tries
		if (killed) {
			shared->from = now();
			kill(holder, SIGKILL);
		} else {
			shared->release = 1;
		}
		waitpid(waiter, 0, 0);
		printf("%.1f\n", shared->to - shared->from);
		kill(holder, SIGKILL);
		waitpid(holder, 0, 0);
	}
	return 0;
}
