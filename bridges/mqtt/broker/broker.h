/* What differs between the releases of mosquitto 2.0. */
#ifndef FLEETCERT_BROKER_H
#define FLEETCERT_BROKER_H

#include <stdbool.h>
#include <stddef.h>

#include <mosquitto.h>

/* Up to 2.0.14 a message hook frees the topic and the properties that it replaces; since 2.0.15
 * the broker does. Asked when it runs, not when it is compiled: a built plugin outlives an upgrade
 * of the broker, and libmosquitto always has the broker's own release. */
static inline bool broker_frees_what_is_replaced(void)
{
	return mosquitto_lib_version(NULL, NULL, NULL) >= 2000015;
}

#endif
