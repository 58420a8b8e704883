/* The orders that services give on `$CONTROL/fleetcert/v1`, as JSON:
 *
 *   {"id": any string, "refuse": {"certificate": 64 hex} | {"device": id}}
 *   {"id": any string, "allow":  {"certificate": 64 hex} | {"device": id}}
 *   {"id": any string, "status": {}}
 *
 * `id` may be absent. The answer goes to the sender alone, on `$CONTROL/fleetcert/v1/response`:
 * {"id", "ok": bool, "error": only when not ok, "closed": sessions closed, "sessions",
 * "refusals", "refused_connections", "refused_messages"}.
 */
#ifndef FLEETCERT_CONTROL_H
#define FLEETCERT_CONTROL_H

#include <stddef.h>

#define CONTROL_TOPIC "$CONTROL/fleetcert/v1"
#define CONTROL_RESPONSE_TOPIC "$CONTROL/fleetcert/v1/response"
#define CONTROL_PAYLOAD_MAX 4096u
#define CONTROL_ID_MAX 128u

struct counts {
	unsigned long long refused_connections, refused_messages;
};

/* Closes the open sessions of a device or under a certificate; returns how many it closed. */
typedef unsigned (*close_sessions)(const char *kind, const char *value);

/* Carries out one order; returns the answer as JSON (the caller frees it), NULL without memory. */
char *control_answer(const void *payload, size_t size, const struct counts *counts,
	close_sessions close);

#endif
