// Measures operations from a client that costs almost nothing itself.
// Usage: client OPERATION ROUNDS PATH
// Prints the time of each round in microseconds, one on a line. With a fourth argument "go" it does the first round,
// prints "ready", waits for input, does the other rounds and prints only their sum.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, GIB = 1 << 30, PIECE = 4096, PIECES = 20000 };

static char buffer[MIB], payload[101];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static int opened(const char *path, int flags)
{
	int fd = open(path, flags, 0644);
	check(fd >= 0, path);
	return fd;
}

static void create(const char *path, int flags)
{
	int fd = opened(path, O_CREAT | O_WRONLY | flags);
	check(write(fd, payload, 100) == 100, "write");
	check(!close(fd), "close");
}

static void cycle(const char *path)
{
	create(path, O_EXCL);
	check(!unlink(path), path);
}

static void contend(const char *path)
{
	check(open(path, O_CREAT | O_EXCL | O_WRONLY, 0644) < 0 && errno == EEXIST, path);
}

static void append(const char *path)
{
	create(path, O_APPEND);
}

static void look(const char *path)
{
	struct stat st;
	check(!lstat(path, &st), path);
}

static void read100(const char *path)
{
	int fd = opened(path, O_RDONLY);
	check(read(fd, buffer, sizeof buffer) == 100 && read(fd, buffer, sizeof buffer) == 0, "read");
	close(fd);
}

static void tree(const char *path)
{
	char file[4096];
	check(!mkdir(path, 0755), path);
	for (int i = 0; i < 1000; i++) {
		snprintf(file, sizeof file, "%s/file%d", path, i);
		create(file, 0);
	}
	for (int i = 0; i < 1000; i++) {
		snprintf(file, sizeof file, "%s/file%d", path, i);
		check(!unlink(file), file);
	}
	check(!rmdir(path), path);
}

static void list(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	struct stat st;
	check(dir != NULL, path);
	while ((entry = readdir(dir)))
		check(!fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW), entry->d_name);
	closedir(dir);
}

static void write_all(const char *path)
{
	int fd = opened(path, O_CREAT | O_WRONLY);
	for (int i = 0; i < GIB / MIB; i++)
		check(write(fd, buffer, MIB) == MIB, "write");
	close(fd);
}

static void read_all(const char *path)
{
	int fd = opened(path, O_RDONLY);
	for (int i = 0; i < GIB / MIB; i++)
		check(read(fd, buffer, MIB) == MIB, "read");
	close(fd);
}

static off_t somewhere(void)
{
	static unsigned long long at = 1;
	at = at * 6364136223846793005 + 1442695040888963407;
	return (at >> 34) % (GIB / PIECE) * PIECE;
}

static void read_pieces(const char *path)
{
	int fd = opened(path, O_RDONLY);
	for (int i = 0; i < PIECES; i++)
		check(pread(fd, buffer, PIECE, somewhere()) == PIECE, "pread");
	close(fd);
}

static void write_pieces(const char *path)
{
	int fd = opened(path, O_WRONLY);
	for (int i = 0; i < PIECES; i++)
		check(pwrite(fd, buffer, PIECE, somewhere()) == PIECE, "pwrite");
	close(fd);
}

static void append_pieces(const char *path)
{
	int fd = opened(path, O_CREAT | O_WRONLY | O_APPEND | O_TRUNC);
	for (int i = 0; i < PIECES; i++)
		check(write(fd, buffer, 300) == 300, "write");
	close(fd);
}

static void map(const char *path)
{
	int fd = opened(path, O_RDONLY);
	volatile char *mapped = mmap(0, GIB, PROT_READ, MAP_SHARED, fd, 0);
	check(mapped != MAP_FAILED, "mmap");
	for (int i = 0; i < GIB; i += PIECE)
		check(mapped[i] == 0, "content");
	munmap((void *)mapped, GIB);
	close(fd);
}

static const struct {
	const char *name;
	void (*run)(const char *path);
} operations[] = {
	{"cycle", cycle}, {"contend", contend}, {"append", append}, {"stat", look}, {"read", read100}, {"tree", tree}, {"list", list},
	{"write-all", write_all}, {"read-all", read_all}, {"read-pieces", read_pieces}, {"write-pieces", write_pieces},
	{"append-pieces", append_pieces}, {"map", map},
};

int main(int argc, char **argv)
{
	void (*run)(const char *) = NULL;
	for (size_t i = 0; argc >= 4 && i < sizeof operations / sizeof *operations; i++)
		if (!strcmp(argv[1], operations[i].name))
			run = operations[i].run;
	if (!run)
		return 2;
	int rounds = atoi(argv[2]);
	const char *path = argv[3];
	snprintf(payload, sizeof payload, "%-99s\n", "");
	int n = sprintf(payload, "{\"pid\":%d,\"createdAt\":\"2026-01-01T00:00:00.000Z\"}", getpid());
	payload[n] = ' ';
	double *took = calloc(rounds, sizeof *took);
	if (argc > 4) {
		run(path);
		puts("ready");
		fflush(stdout);
		getchar();
	}
	double start = now();
	for (int i = 0; i < rounds; i++) {
		double from = now();
		run(path);
		took[i] = now() - from;
	}
	if (argc > 4)
		printf("%.1f\n", now() - start);
	for (int i = 0; argc <= 4 && i < rounds; i++)
		printf("%.1f\n", took[i]);
	return 0;
}
