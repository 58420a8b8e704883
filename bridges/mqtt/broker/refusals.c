#include "refusals.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <uthash.h>

struct refusal {
	UT_hash_handle hh;
	bool durable;
	char key[REFUSAL_KEY_SIZE];
};

/* A refusal that the disk would not take is held in memory, and written when asked again. */
static struct refusal *refusals;
static int file = -1;

static bool is_alphanumeric(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

bool is_device_id(const char *id)
{
	size_t length = 0;

	if (id == NULL || !is_alphanumeric(id[0]))
		return false;
	for (; id[length] != '\0'; length++) {
		if (length >= 64)
			return false;
		if (!is_alphanumeric(id[length]) && strchr("._-", id[length]) == NULL)
			return false;
	}
	return true;
}

bool is_fingerprint(const char *text)
{
	return text != NULL && strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

static bool make_key(char key[REFUSAL_KEY_SIZE], const char *kind, const char *value)
{
	bool valid = (strcmp(kind, "certificate") == 0 && is_fingerprint(value))
		|| (strcmp(kind, "device") == 0 && is_device_id(value));

	if (valid)
		snprintf(key, REFUSAL_KEY_SIZE, "%s:%s", kind, value);
	return valid;
}

static struct refusal *find(const char *key)
{
	struct refusal *found;

	HASH_FIND_STR(refusals, key, found);
	return found;
}

static struct refusal *keep(const char *key)
{
	struct refusal *kept = find(key);

	if (kept != NULL || refusals_count() >= REFUSALS_MAX)
		return kept;
	kept = calloc(1, sizeof *kept);
	if (kept == NULL)
		return NULL;
	snprintf(kept->key, sizeof kept->key, "%s", key);
	HASH_ADD_STR(refusals, key, kept);
	return kept;
}

static void drop(const char *key)
{
	struct refusal *found = find(key);

	if (found != NULL) {
		HASH_DEL(refusals, found);
		free(found);
	}
}

/* Appends one line and has it on the disk; on failure leaves the file as it was. */
static bool append(const char *prefix, const char *key)
{
	char line[REFUSAL_KEY_SIZE + 4];
	int length = snprintf(line, sizeof line, "%s%s\n", prefix, key);
	off_t before = lseek(file, 0, SEEK_END);

	if (before < 0)
		return false;
	if (write(file, line, (size_t)length) == length && fsync(file) == 0)
		return true;
	if (ftruncate(file, before) == 0)
		(void)fsync(file);
	return false;
}

/* Takes one line of the file into memory. */
static bool apply(const char *line)
{
	char kind[16], key[REFUSAL_KEY_SIZE];
	bool remove = line[0] == '!';
	const char *start = remove ? line + 1 : line;
	const char *colon = strchr(start, ':');
	struct refusal *kept;

	if (colon == NULL || (size_t)(colon - start) >= sizeof kind)
		return false;
	snprintf(kind, sizeof kind, "%.*s", (int)(colon - start), start);
	if (!make_key(key, kind, colon + 1))
		return false;
	if (remove) {
		drop(key);
		return true;
	}
	kept = keep(key);
	if (kept != NULL)
		kept->durable = true;
	return kept != NULL;
}

static bool load(FILE *stream, off_t *good)
{
	char line[REFUSAL_KEY_SIZE + 8];

	while (fgets(line, sizeof line, stream) != NULL) {
		size_t length = strlen(line);

		if (length == 0 || line[length - 1] != '\n')
			return feof(stream) != 0; /* a torn tail: `good` is its beginning */
		line[length - 1] = '\0';
		if (!apply(line))
			return false;
		*good += (off_t)length;
	}
	return ferror(stream) == 0;
}

/* Makes the name of a new file as durable as its content. */
static bool sync_directory(const char *path)
{
	char directory[4096];
	char *slash;
	int handle;
	bool synced;

	snprintf(directory, sizeof directory, "%s", path);
	slash = strrchr(directory, '/');
	if (slash == NULL)
		snprintf(directory, sizeof directory, ".");
	else
		slash[slash == directory ? 1 : 0] = '\0';
	handle = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (handle < 0)
		return false;
	synced = fsync(handle) == 0;
	close(handle);
	return synced;
}

bool refusals_open(const char *path, char *error, size_t error_size)
{
	off_t good = 0;
	FILE *stream;
	bool loaded;

	file = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	stream = file < 0 ? NULL : fopen(path, "r");
	if (stream == NULL) {
		snprintf(error, error_size, "cannot open %s for reading and appending", path);
		return false;
	}
	loaded = load(stream, &good);
	fclose(stream);
	if (!loaded) {
		snprintf(error, error_size, "%s: not a refusal after byte %lld", path, (long long)good);
		return false;
	}
	if (ftruncate(file, good) != 0 || fsync(file) != 0 || !sync_directory(path)) {
		snprintf(error, error_size, "cannot write %s durably", path);
		return false;
	}
	return true;
}

void refusals_close(void)
{
	struct refusal *each, *next;

	HASH_ITER(hh, refusals, each, next) {
		HASH_DEL(refusals, each);
		free(each);
	}
	if (file >= 0)
		close(file);
	file = -1;
}

bool refusals_has(const char *kind, const char *value)
{
	char key[REFUSAL_KEY_SIZE];

	return make_key(key, kind, value) && find(key) != NULL;
}

enum refusals_result refusals_add(const char *kind, const char *value)
{
	char key[REFUSAL_KEY_SIZE];
	struct refusal *kept;

	if (!make_key(key, kind, value))
		return REFUSALS_INVALID;
	kept = keep(key);
	if (kept == NULL)
		return REFUSALS_FULL;
	if (!kept->durable)
		kept->durable = append("", key);
	return kept->durable ? REFUSALS_OK : REFUSALS_NOT_DURABLE;
}

enum refusals_result refusals_remove(const char *kind, const char *value)
{
	char key[REFUSAL_KEY_SIZE];

	if (!make_key(key, kind, value))
		return REFUSALS_INVALID;
	if (find(key) == NULL)
		return REFUSALS_OK;
	if (!append("!", key))
		return REFUSALS_NOT_DURABLE;
	drop(key);
	return REFUSALS_OK;
}

size_t refusals_count(void)
{
	return HASH_COUNT(refusals);
}
