/* The durable set of refused certificates and devices.
 *
 * A refusal is a key, `certificate:<64 hex>` or `device:<id>`. The file holds one key a line, in
 * the order of the orders; a line that begins with `!` takes the key out again. Every change is
 * on the disk (fsync) before it is answered. A torn last line was never answered: it is cut off
 * when the file is opened. Any other line that is not understood keeps the broker from starting.
 */
#ifndef FLEETCERT_REFUSALS_H
#define FLEETCERT_REFUSALS_H

#include <stdbool.h>
#include <stddef.h>

#define REFUSAL_KEY_SIZE 96   /* "certificate:" + 64 hex + end, with room to spare */
#define REFUSALS_MAX 1000000u /* about 200 MB of memory */

enum refusals_result { REFUSALS_OK, REFUSALS_FULL, REFUSALS_NOT_DURABLE, REFUSALS_INVALID };

/* Tells whether `id` can name a device: [A-Za-z0-9][A-Za-z0-9._-]{0,63}. */
bool is_device_id(const char *id);

/* Tells whether `text` is a SHA-256 in 64 lower-case hexadecimal digits. */
bool is_fingerprint(const char *text);

/* Opens (and makes) the file and reads it; on failure writes why into `error`. */
bool refusals_open(const char *path, char *error, size_t error_size);

void refusals_close(void);

bool refusals_has(const char *kind, const char *value);

/* Refuses a key. When the disk fails the refusal still holds in memory: REFUSALS_NOT_DURABLE. */
enum refusals_result refusals_add(const char *kind, const char *value);

/* Takes a refusal back. When the disk fails the refusal stays: REFUSALS_NOT_DURABLE. */
enum refusals_result refusals_remove(const char *kind, const char *value);

size_t refusals_count(void);

#endif
