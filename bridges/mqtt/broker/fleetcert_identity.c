/* The identity plugin of the broker (mosquitto 2.0.11 or later, plugin interface 5).
 *
 * It is loaded on both listeners (`per_listener_settings true`): role `device` and role `service`.
 * The broker opens the library once, so both share the sessions and the refusals in here, while
 * each callback runs for the clients of the listener it was registered on.
 *
 * What it holds to:
 * - A connection is judged at CONNECT, in the basic-auth hook. mosquitto does not run that hook on
 *   a listener with `use_identity_as_username`: this option must be off, the plugin sets the user
 *   name from the certificate itself. Client id = common name = SAN URI, or it is refused.
 * - Every PUBLISH of a device leaves as `bucket/N/devices/ID/...`, not retained, with one stamp,
 *   the plugin's. A topic of another device is refused, and told of.
 * - Client ids of services begin with `@`, which no device id can: ids are global to the broker, a
 *   device named like a bridge would otherwise take that bridge's session away.
 * - Wills pass no message hook: they come out unstamped, on the device's own `status` topic and
 *   nowhere else, never retained. Readers take a message without a valid stamp for a hint.
 *
 * `opened` reaches the broker's queue before the CONNACK does; a device that sends PUBLISH without
 * waiting for CONNACK can still overtake it: readers order by session and counter (`opened` is 0).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cjson/cJSON.h>
#include <mosquitto.h>
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <mqtt_protocol.h>

#include "certificate.h"
#include "control.h"
#include "refusals.h"
#include "sessions.h"
#include "stamp.h"

#define BUCKETS_MAX 4096u
#define TOPIC_SIZE_MAX 512u          /* of a device's PUBLISH: the bucket is put in front */
#define SESSION_REFUSALS_TOLD_MAX 16u /* further refused messages of a session: only counted */
#define REFUSED_TOLD_PER_SECOND 200u /* further refused connections in a second: only counted */
#define BROKER_NAME "@broker"        /* stands for a device id in what the broker itself says */
#define UNKNOWN_NAME "@unknown"      /* a connection without a name that can be believed */

/* One listener. */
struct door {
	bool device;
	mosquitto_plugin_id_t *plugin;
	STACK_OF(X509) *issuers;
};

static struct door doors[2];
static unsigned doors_open;
static uint32_t buckets;
static struct counts counts;

/* ---- what the plugin tells ---- */

struct news {
	const char *event, *reason, *topic;
	int reason_code;
	unsigned refused_messages;
};

static char *to_json(const struct session *session, const char *name, const struct news *news)
{
	cJSON *object = cJSON_CreateObject();
	char *text = NULL;

	if (object == NULL)
		return NULL;
	cJSON_AddStringToObject(object, "event", news->event);
	cJSON_AddStringToObject(object, "device", name);
	cJSON_AddStringToObject(object, "session", session->id);
	cJSON_AddStringToObject(object, "certificate", session->identity.fingerprint);
	cJSON_AddStringToObject(object, "address", session->address);
	cJSON_AddNumberToObject(object, "reason_code", news->reason_code);
	cJSON_AddStringToObject(object, "reason", news->reason);
	cJSON_AddNumberToObject(object, "refused_messages", news->refused_messages);
	if (news->topic != NULL)
		cJSON_AddStringToObject(object, "topic", news->topic);
	text = cJSON_PrintUnformatted(object);
	cJSON_Delete(object);
	return text;
}

/* Publishes to `bucket/N/sessions/NAME`, QoS 1, stamped with the session's counter. */
static void tell_bucket(uint32_t bucket, const struct session *session, const char *name,
	const struct news *news)
{
	char own_topic[128], topic[160];
	struct stamp stamp = {session->identity.fingerprint, name, session->id, session->counter,
		session->address, own_topic};
	mosquitto_property *properties = NULL;
	char *text = to_json(session, name, news);
	int size = text == NULL ? 0 : (int)strlen(text);

	snprintf(own_topic, sizeof own_topic, "sessions/%s", name);
	snprintf(topic, sizeof topic, "bucket/%" PRIu32 "/%s", bucket, own_topic);
	if (text == NULL
			|| stamp_add(&properties, &stamp, text, (size_t)size) != MOSQ_ERR_SUCCESS
			|| mosquitto_broker_publish_copy(NULL, topic, size, text, 1, false, properties)
				!= MOSQ_ERR_SUCCESS) {
		mosquitto_property_free_all(&properties);
		mosquitto_log_printf(MOSQ_LOG_ERR, "fleetcert: '%s' of %s could not be published",
			news->event, name);
	}
	free(text);
}

static void tell(const struct session *session, const struct news *news)
{
	const char *name = session->identity.name[0] == '\0' ? UNKNOWN_NAME : session->identity.name;

	tell_bucket(bucket_of(name, buckets), session, name, news);
}

/* Tells every bucket that all earlier sessions have ended: a broker that dies cannot. */
static bool tell_start(void)
{
	struct news news = {.event = "started", .reason = "broker-started"};
	struct identity broker = {0};
	struct session session;

	memset(broker.fingerprint, '0', SHA256_HEX_SIZE - 1);
	if (!session_describe(&session, NULL, &broker))
		return false;
	for (uint32_t bucket = 0; bucket < buckets; bucket++)
		tell_bucket(bucket, &session, BROKER_NAME, &news);
	return true;
}

/* ---- a connection begins and ends ---- */

static bool may_tell_refusal(void)
{
	static time_t second;
	static unsigned told;
	time_t now = time(NULL);

	if (now != second) {
		second = now;
		told = 0;
	}
	return told++ < REFUSED_TOLD_PER_SECOND;
}

static const char *judge(struct identity *identity, struct mosquitto *client,
	const struct door *door)
{
	X509 *certificate = mosquitto_client_certificate(client);
	const char *client_id = mosquitto_client_id(client);
	const char *reason = identify(identity, certificate, door->issuers, door->device);

	X509_free(certificate);
	if (reason != NULL)
		return reason;
	if (refusals_has("certificate", identity->fingerprint))
		return "refused-certificate";
	if (!door->device)
		return client_id != NULL && client_id[0] == '@' ? NULL : "client-id-mismatch";
	if (refusals_has("device", identity->name))
		return "refused-device";
	if (client_id == NULL || strcmp(client_id, identity->name) != 0)
		return "client-id-mismatch";
	return NULL;
}

static int refuse_connection(const struct session *session, const struct door *door,
	const char *reason)
{
	struct news news = {.event = "refused", .reason = reason,
		.reason_code = MQTT_RC_NOT_AUTHORIZED};

	counts.refused_connections++;
	mosquitto_log_printf(MOSQ_LOG_NOTICE, "fleetcert: %s connection of '%s' refused: %s",
		door->device ? "device" : "service", session->identity.name, reason);
	if (door->device && may_tell_refusal())
		tell(session, &news);
	return MOSQ_ERR_AUTH;
}

static int on_connect(int event, void *data, void *userdata)
{
	struct mosquitto_evt_basic_auth *connecting = data;
	const struct door *door = userdata;
	struct news news = {.event = "opened", .reason = "connected"};
	struct identity identity;
	struct session session;
	const char *reason = judge(&identity, connecting->client, door);

	(void)event;
	if (!session_describe(&session, connecting->client, &identity))
		return MOSQ_ERR_AUTH;
	if (reason != NULL)
		return refuse_connection(&session, door, reason);
	if (mosquitto_set_username(connecting->client, identity.name) != MOSQ_ERR_SUCCESS)
		return MOSQ_ERR_AUTH;
	if (!door->device)
		return MOSQ_ERR_SUCCESS;
	if (session_open(&session) == NULL)
		return MOSQ_ERR_AUTH;
	tell(&session, &news);
	return MOSQ_ERR_SUCCESS;
}

static int on_disconnect(int event, void *data, void *userdata)
{
	struct mosquitto_evt_disconnect *leaving = data;
	struct session *session = session_take(leaving->client);
	struct news news = {.event = "closed", .reason = "disconnected"};

	(void)event;
	(void)userdata;
	if (session == NULL)
		return MOSQ_ERR_SUCCESS;
	if (session->ending != NULL) {
		news.reason = session->ending;
		news.reason_code = MQTT_RC_ADMINISTRATIVE_ACTION;
	} else if (session_named(session->identity.name) != NULL) {
		news.reason = "taken-over";
		news.reason_code = MQTT_RC_SESSION_TAKEN_OVER;
	}
	news.refused_messages = session->refusals;
	session->counter++;
	tell(session, &news);
	free(session);
	return MOSQ_ERR_SUCCESS;
}

/* ---- a device speaks ---- */

/* Tells whether `topic` is `devices/NAME/...`, with something after it. */
static bool is_own(const char *topic, const char *name)
{
	size_t size = strlen(name);

	return strncmp(topic, "devices/", 8) == 0 && strncmp(topic + 8, name, size) == 0
		&& topic[8 + size] == '/' && topic[9 + size] != '\0';
}

/* Counts a refused message, tells of it, and gives what the hook must return. */
static int refuse_message(struct session *session, const char *event, const char *reason,
	const char *topic)
{
	struct news news = {.event = event, .reason = reason,
		.reason_code = MQTT_RC_NOT_AUTHORIZED};
	char shown[TOPIC_SIZE_MAX + 1];

	counts.refused_messages++;
	session->refusals++;
	if (session->refusals > SESSION_REFUSALS_TOLD_MAX)
		return MOSQ_ERR_ACL_DENIED;
	if (strlen(topic) <= TOPIC_SIZE_MAX) { /* a cut one could end within a UTF-8 sequence */
		snprintf(shown, sizeof shown, "%s", topic);
		news.topic = shown;
	}
	news.refused_messages = session->refusals;
	session->counter++;
	tell(session, &news);
	return MOSQ_ERR_ACL_DENIED;
}

/* A will is checked when its session has ended, or after a newer one has taken the name. */
static int check_will(const struct mosquitto_evt_acl_check *check)
{
	const char *name = mosquitto_client_username(check->client);
	char status[8 + DEVICE_ID_SIZE + 8];

	if (!is_device_id(name))
		return MOSQ_ERR_ACL_DENIED;
	snprintf(status, sizeof status, "devices/%s/status", name);
	if (!check->retain && strcmp(check->topic, status) == 0)
		return MOSQ_ERR_PLUGIN_DEFER;
	counts.refused_messages++;
	return MOSQ_ERR_ACL_DENIED;
}

/* Refuses what no access list could: lists know neither wills nor subscriptions. */
static int on_access(int event, void *data, void *userdata)
{
	const struct mosquitto_evt_acl_check *check = data;
	struct session *session;
	const char *name;

	(void)event;
	(void)userdata;
	if (check->access == MOSQ_ACL_READ || check->access == MOSQ_ACL_UNSUBSCRIBE)
		return MOSQ_ERR_PLUGIN_DEFER;
	session = session_of(check->client);
	if (check->access == MOSQ_ACL_SUBSCRIBE) {
		name = mosquitto_client_username(check->client);
		return session != NULL && name != NULL && is_own(check->topic, name)
			? MOSQ_ERR_PLUGIN_DEFER : MOSQ_ERR_ACL_DENIED;
	}
	if (session == NULL || session->superseded)
		return check_will(check);
	if (strlen(check->topic) > TOPIC_SIZE_MAX)
		return refuse_message(session, "refused-message", "topic-too-long", check->topic);
	if (!is_own(check->topic, session->identity.name))
		return refuse_message(session, "foreign-topic", "foreign-topic", check->topic);
	return MOSQ_ERR_PLUGIN_DEFER;
}

static char *bucket_topic(const struct session *session, const char *topic)
{
	uint32_t bucket = bucket_of(session->identity.name, buckets);
	size_t size = strlen(topic) + sizeof "bucket/4294967295/";
	char *rewritten = mosquitto_malloc(size);

	if (rewritten != NULL)
		snprintf(rewritten, size, "bucket/%" PRIu32 "/%s", bucket, topic);
	return rewritten;
}

static int on_message(int event, void *data, void *userdata)
{
	struct mosquitto_evt_message *message = data;
	struct session *session = session_of(message->client);
	struct stamp stamp;
	char *topic;
	int result;

	(void)event;
	(void)userdata;
	if (session == NULL || !is_own(message->topic, session->identity.name))
		return MOSQ_ERR_ACL_DENIED; /* the access hook has already refused these */
	result = stamp_remove(&message->properties);
	if (result == MOSQ_ERR_ACL_DENIED)
		return refuse_message(session, "refused-message", "too-many-properties", message->topic);
	if (result != MOSQ_ERR_SUCCESS)
		return result;
	topic = bucket_topic(session, message->topic);
	if (topic == NULL)
		return MOSQ_ERR_NOMEM;
	session->counter++;
	stamp = (struct stamp){session->identity.fingerprint, session->identity.name, session->id,
		session->counter, session->address, message->topic};
	result = stamp_add(&message->properties, &stamp, message->payload, message->payloadlen);
	if (result != MOSQ_ERR_SUCCESS) {
		mosquitto_free(topic);
		return result;
	}
	mosquitto_free(message->topic);
	message->topic = topic;
	message->retain = false;
	return MOSQ_ERR_SUCCESS;
}

/* ---- a service gives an order ---- */

static unsigned close_open_session(const char *kind, const char *value)
{
	bool device = strcmp(kind, "device") == 0;
	struct session *session = device ? session_named(value) : session_under(value);

	if (session == NULL)
		return 0;
	session->ending = device ? "refused-device" : "refused-certificate";
	/* The broker calls on_disconnect from in here, which takes the row out. */
	if (mosquitto_kick_client_by_clientid(session->identity.name, false) == MOSQ_ERR_SUCCESS)
		return 1;
	return 0;
}

static int on_control(int event, void *data, void *userdata)
{
	const struct mosquitto_evt_control *order = data;
	char *answer = control_answer(order->payload, order->payloadlen, &counts, close_open_session);

	(void)event;
	(void)userdata;
	if (answer != NULL)
		mosquitto_broker_publish_copy(mosquitto_client_id(order->client), CONTROL_RESPONSE_TOPIC,
			(int)strlen(answer), answer, 1, false, NULL);
	free(answer);
	return MOSQ_ERR_SUCCESS; /* an error would end the service's connection */
}

/* ---- the plugin begins and ends ---- */

static const char *option(const struct mosquitto_opt *options, int count, const char *key)
{
	for (int i = 0; i < count; i++)
		if (strcmp(options[i].key, key) == 0)
			return options[i].value;
	return "";
}

static bool open_shared(const struct mosquitto_opt *options, int count, char *error, size_t size)
{
	const char *text = option(options, count, "buckets");
	char *end = NULL;
	unsigned long wanted = strtoul(text, &end, 10);

	if (text[0] < '1' || text[0] > '9' || *end != '\0' || wanted > BUCKETS_MAX) {
		snprintf(error, size, "plugin_opt_buckets must be between 1 and %u", BUCKETS_MAX);
		return false;
	}
	if (doors_open > 0 && wanted != buckets) {
		snprintf(error, size, "plugin_opt_buckets must be the same on both listeners");
		return false;
	}
	if (doors_open > 0)
		return true;
	buckets = (uint32_t)wanted;
	return stamp_open(option(options, count, "secret_file"), error, size)
		&& refusals_open(option(options, count, "refused_file"), error, size);
}

static bool register_callbacks(struct door *door)
{
	mosquitto_plugin_id_t *plugin = door->plugin;
	int result = mosquitto_callback_register(plugin, MOSQ_EVT_BASIC_AUTH, on_connect, NULL, door);

	if (!door->device)
		return result == 0 && mosquitto_callback_register(plugin, MOSQ_EVT_CONTROL, on_control,
			CONTROL_TOPIC, door) == 0;
	return result == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_DISCONNECT, on_disconnect, NULL, door) == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_ACL_CHECK, on_access, NULL, door) == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_MESSAGE, on_message, NULL, door) == 0;
}

static bool open_door(struct door *door, const struct mosquitto_opt *options, int count,
	char *error, size_t size)
{
	const char *role = option(options, count, "role");

	door->device = strcmp(role, "device") == 0;
	if (!door->device && strcmp(role, "service") != 0) {
		snprintf(error, size, "plugin_opt_role must be device or service");
		return false;
	}
	if (!open_shared(options, count, error, size))
		return false;
	door->issuers = issuers_open(option(options, count, "issuer_file"), error, size);
	if (door->issuers == NULL)
		return false;
	snprintf(error, size, "the broker did not take the callbacks");
	return register_callbacks(door) && (!door->device || tell_start());
}

int mosquitto_plugin_version(int supported_version_count, const int *supported_versions)
{
	for (int i = 0; i < supported_version_count; i++)
		if (supported_versions[i] == MOSQ_PLUGIN_VERSION)
			return MOSQ_PLUGIN_VERSION;
	return -1;
}

int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier, void **userdata,
	struct mosquitto_opt *options, int option_count)
{
	char error[512] = "it can be loaded on two listeners, not more";
	struct door *door = &doors[doors_open % 2];

	if (doors_open < 2) {
		door->plugin = identifier;
		if (open_door(door, options, option_count, error, sizeof error)) {
			doors_open++;
			*userdata = door;
			return MOSQ_ERR_SUCCESS;
		}
	}
	mosquitto_log_printf(MOSQ_LOG_ERR, "fleetcert: the identity plugin cannot start: %s", error);
	return MOSQ_ERR_INVAL;
}

int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *options, int option_count)
{
	struct door *door = userdata;

	(void)options;
	(void)option_count;
	if (door == NULL)
		return MOSQ_ERR_SUCCESS;
	sk_X509_pop_free(door->issuers, X509_free);
	door->issuers = NULL;
	if (--doors_open == 0) {
		sessions_close();
		refusals_close();
		stamp_close();
	}
	return MOSQ_ERR_SUCCESS;
}
