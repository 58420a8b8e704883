/* The identity plugin of the broker (mosquitto 2.0.11 or later, plugin interface 5).
 *
 * It is loaded once for both listeners (`per_listener_settings false`: under `true` mosquitto 2.0.12
 * to 2.0.22 forgets the listener of a session that is away, and drops what it should queue for it).
 * So a client's role does not come from its listener but from its certificate: whom the device CA
 * issued is a device, whom the service CA issued is a service. TLS keeps each to its own listener.
 *
 * What it holds to:
 * - A connection is judged at CONNECT, in the basic-auth hook. mosquitto does not run that hook on
 *   a listener with `use_identity_as_username`: this option must be off, the plugin sets the user
 *   name itself. For a device it is its id: client id = common name = SAN URI, or it is refused.
 * - For a service it is `@` and its common name, which no certificate of a device can give: who
 *   bears such a user name has been judged. It is kept with the session, also while that is away.
 * - Every PUBLISH of a device leaves as `bucket/N/devices/ID/...`, not retained, with one stamp,
 *   the plugin's. A topic of another device is refused, and told of.
 * - A newcomer, whom a provisioning CA issued where one is configured, is good for enrolment alone:
 *   its client id is `~` and its certificate's fingerprint, its user name `~` and its name, its
 *   topics are `newcomers/ID/...`. It cannot take, read or answer for the session of the device
 *   that it names itself after. Its certificate is told whole, once a session, when it subscribes
 *   to its commands: an answer to that finds the subscription there.
 * - Client ids of services begin with `@`, which no device id can: ids are global to the broker, a
 *   device named like a bridge would otherwise take that bridge's session away.
 * - Wills pass no message hook: they come out unstamped, on the device's own `status` topic and
 *   nowhere else, never retained. Readers take a message without a valid stamp for a hint.
 * - What is not allowed by name is denied; there are no access lists beside the tables in here.
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

#include "broker.h"
#include "certificate.h"
#include "control.h"
#include "refusals.h"
#include "sessions.h"
#include "stamp.h"

#define BUCKETS_MAX 4096u
#define RATE_MAX 1000000u
#define NEWCOMERS_MAX 1000000u
#define NEWCOMER_RATE 10u   /* messages and subscriptions per second: an enrolment needs a few */
#define NEWCOMER_BURST 100u
#define TOPIC_SIZE_MAX 512u          /* of a device's PUBLISH: the bucket is put in front */
#define SESSION_REFUSALS_TOLD_MAX 16u /* further refused messages of a session: only counted */
#define REFUSED_TOLD_PER_SECOND 200u /* further refused connections in a second: only counted */
#define BROKER_NAME "@broker"        /* stands for a device id in what the broker itself says */
#define UNKNOWN_NAME "@unknown"      /* a connection without a name that can be believed */

static struct issuers issuers;
static bool is_open;
static unsigned buckets;
static unsigned rate, burst; /* messages per second of one session, and how many at once */
static unsigned newcomers_max; /* open sessions of newcomers: one more ends the first of them */
static struct counts counts;
static bool reloading; /* the broker asks again about whoever it has a session of */

/* ---- what the plugin tells ---- */

struct news {
	const char *event, *reason, *topic;
	const char *certificate_der; /* base64, of a newcomer that presents itself */
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
	if (session->identity.newcomer)
		cJSON_AddBoolToObject(object, "newcomer", true);
	if (news->certificate_der != NULL)
		cJSON_AddStringToObject(object, "certificate_der", news->certificate_der);
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

static const char *judge(struct identity *identity, struct mosquitto *client)
{
	X509 *certificate = mosquitto_client_certificate(client);
	const char *client_id = mosquitto_client_id(client);
	char wanted[CLIENT_ID_SIZE];
	const char *reason = identify(identity, certificate, &issuers);

	X509_free(certificate);
	if (reason != NULL)
		return reason;
	if (refusals_has("certificate", identity->fingerprint)
			|| refusals_has("certificate", identity->twin))
		return "refused-certificate";
	if (identity->service)
		return client_id != NULL && client_id[0] == '@' ? NULL : "client-id-mismatch";
	if (refusals_has("device", identity->name))
		return "refused-device";
	client_id_of(wanted, identity);
	if (client_id == NULL || strcmp(client_id, wanted) != 0)
		return "client-id-mismatch";
	return NULL;
}

static int refuse_connection(const struct session *session, const char *reason)
{
	struct news news = {.event = "refused", .reason = reason,
		.reason_code = MQTT_RC_NOT_AUTHORIZED};
	bool service = session->identity.service;

	counts.refused_connections++;
	mosquitto_log_printf(MOSQ_LOG_NOTICE, "fleetcert: %s connection of '%s' refused: %s",
		service ? "service" : session->identity.newcomer ? "newcomer" : "device",
		session->identity.name, reason);
	if (!service && may_tell_refusal())
		tell(session, &news);
	return MOSQ_ERR_AUTH;
}

/* The user name is the verdict: `@NAME` of a service, `~ID` of a newcomer, the id of a device. */
static int admit(struct mosquitto *client, const struct identity *identity)
{
	char name[1 + DEVICE_ID_SIZE];
	const char *mark = identity->service ? "@" : identity->newcomer ? "~" : "";

	snprintf(name, sizeof name, "%s%s", mark, identity->name);
	return mosquitto_set_username(client, name);
}

/* Closes a session; the broker calls on_disconnect from in here, which takes the row out. */
static bool end_session(struct session *session, const char *why)
{
	session->ending = why;
	return mosquitto_kick_client_by_clientid(session->client_id, false) == MOSQ_ERR_SUCCESS;
}

/* Makes room for one more newcomer: whoever came first gives way, and comes again. */
static void make_room(void)
{
	struct session *first = newcomer_first();
	struct news news = {.event = "refused", .reason = "too-many-newcomers",
		.reason_code = MQTT_RC_QUOTA_EXCEEDED};

	if (newcomer_count() < newcomers_max)
		return;
	counts.refused_connections++;
	first->counter++;
	if (may_tell_refusal())
		tell(first, &news);
	end_session(first, news.reason);
}

static int on_connect(int event, void *data, void *userdata)
{
	struct mosquitto_evt_basic_auth *connecting = data;
	struct news news = {.event = "opened", .reason = "connected"};
	struct identity identity;
	struct session session;
	const char *reason;

	(void)event;
	(void)userdata;
	if (reloading)
		return MOSQ_ERR_SUCCESS;
	reason = judge(&identity, connecting->client);
	if (!session_describe(&session, connecting->client, &identity))
		return MOSQ_ERR_AUTH;
	if (reason != NULL)
		return refuse_connection(&session, reason);
	if (admit(connecting->client, &identity) != MOSQ_ERR_SUCCESS)
		return MOSQ_ERR_AUTH;
	if (identity.service)
		return MOSQ_ERR_SUCCESS;
	if (identity.newcomer && session_with(session.client_id) == NULL)
		make_room();
	if (session_open(&session) == NULL)
		return MOSQ_ERR_AUTH;
	if (!identity.newcomer) /* who presents itself when it subscribes */
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
	} else if (session_with(session->client_id) != NULL) {
		news.reason = "taken-over";
		news.reason_code = MQTT_RC_SESSION_TAKEN_OVER;
	}
	news.refused_messages = session->refusals;
	session->counter++;
	if (!session->identity.newcomer || session->presented)
		tell(session, &news);
	free(session);
	return MOSQ_ERR_SUCCESS;
}

/* ---- a device speaks ---- */

/* Gives what follows `TREE/NAME/` in a topic, NULL when it is another topic or ends there. */
static const char *rest_of(const char *topic, const char *tree, const char *name)
{
	size_t size = strlen(tree);

	if (strncmp(topic, tree, size) != 0 || topic[size] != '/')
		return NULL;
	topic += size + 1;
	size = strlen(name);
	if (strncmp(topic, name, size) != 0 || topic[size] != '/' || topic[size + 1] == '\0')
		return NULL;
	return topic + size + 1;
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
static int check_will(const struct mosquitto_evt_acl_check *check, const char *name)
{
	char status[8 + DEVICE_ID_SIZE + 8];

	if (!is_device_id(name))
		return MOSQ_ERR_ACL_DENIED;
	snprintf(status, sizeof status, "devices/%s/status", name);
	if (!check->retain && strcmp(check->topic, status) == 0)
		return MOSQ_ERR_SUCCESS;
	counts.refused_messages++;
	return MOSQ_ERR_ACL_DENIED;
}

/* ---- who may read and write what ---- */

static const char *const service_reads[] = {
	"bucket/#", "devices/+/status", "$SYS/#", CONTROL_RESPONSE_TOPIC, NULL};
static const char *const service_writes[] = {
	CONTROL_TOPIC, "devices/+/commands/#", "devices/+/recorded", "newcomers/+/commands/#",
	"newcomers/+/recorded", NULL};
/* Of a device: what follows `devices/ID/`. */
static const char *const device_reads[] = {"commands/#", "recorded", NULL};
static const char *const device_writes[] = {"events/#", "replies/#", "status", NULL};
/* Of a newcomer: what follows `newcomers/ID/`. */
static const char *const newcomer_reads[] = {"commands/#", "recorded", NULL};
static const char *const newcomer_writes[] = {"replies/+", NULL};

static int allowed(const char *const *patterns, const char *topic)
{
	bool matches = false;

	for (; *patterns != NULL && !matches; patterns++)
		mosquitto_topic_matches_sub(*patterns, topic, &matches);
	return matches ? MOSQ_ERR_SUCCESS : MOSQ_ERR_ACL_DENIED;
}

static int check_service(const struct mosquitto_evt_acl_check *check)
{
	if (check->access == MOSQ_ACL_SUBSCRIBE) /* what comes of it is checked message by message */
		return MOSQ_ERR_SUCCESS;
	return allowed(check->access == MOSQ_ACL_READ ? service_reads : service_writes, check->topic);
}

/* A newcomer has asked for its commands: tells who it is, once a session. */
static int present(struct session *session)
{
	struct news news = {.event = "presented", .reason = "connected"};
	X509 *certificate = mosquitto_client_certificate(session->client);
	char *text = certificate_base64(certificate);

	X509_free(certificate);
	if (text == NULL)
		return refuse_message(session, "refused-message", "certificate-too-long", "");
	news.certificate_der = text;
	session->presented = true;
	session->counter++;
	tell(session, &news);
	free(text);
	return MOSQ_ERR_SUCCESS;
}

/* Grants `commands/...` and `recorded` alone: no pattern that matches both. */
static int check_newcomers_subscription(struct session *session, const char *rest)
{
	bool commands = rest != NULL && strncmp(rest, "commands/", sizeof "commands/" - 1) == 0;

	if (session == NULL || rest == NULL || (!commands && strcmp(rest, "recorded") != 0)
			|| !session_may_speak(session, NEWCOMER_RATE, NEWCOMER_BURST))
		return MOSQ_ERR_ACL_DENIED;
	return commands && !session->presented ? present(session) : MOSQ_ERR_SUCCESS;
}

static int check_newcomers_message(struct session *session, const char *topic, const char *rest,
	const char *name)
{
	if (strlen(topic) > TOPIC_SIZE_MAX)
		return refuse_message(session, "refused-message", "topic-too-long", topic);
	if (!session_may_speak(session, NEWCOMER_RATE, NEWCOMER_BURST))
		return refuse_message(session, "refused-message", "rate-exceeded", topic);
	if (rest == NULL && rest_of(topic, "devices", name) == NULL)
		return refuse_message(session, "foreign-topic", "foreign-topic", topic);
	if (rest == NULL || allowed(newcomer_writes, rest) != MOSQ_ERR_SUCCESS)
		return refuse_message(session, "refused-message", "provisioning-only", topic);
	return MOSQ_ERR_SUCCESS;
}

/* A newcomer's will is refused like all else that is no answer to a command. */
static int check_newcomer(const struct mosquitto_evt_acl_check *check, const char *name)
{
	struct session *session = session_of(check->client);
	const char *rest = rest_of(check->topic, "newcomers", name);

	if (check->access == MOSQ_ACL_SUBSCRIBE)
		return check_newcomers_subscription(session, rest);
	if (check->access == MOSQ_ACL_READ)
		return rest == NULL ? MOSQ_ERR_ACL_DENIED : allowed(newcomer_reads, rest);
	if (check->access != MOSQ_ACL_WRITE)
		return MOSQ_ERR_ACL_DENIED;
	if (session != NULL && !session->superseded)
		return check_newcomers_message(session, check->topic, rest, name);
	counts.refused_messages++;
	return MOSQ_ERR_ACL_DENIED;
}

static int check_device(const struct mosquitto_evt_acl_check *check, const char *name)
{
	struct session *session = session_of(check->client);
	const char *rest = rest_of(check->topic, "devices", name);

	if (check->access == MOSQ_ACL_SUBSCRIBE)
		return session != NULL && rest != NULL ? MOSQ_ERR_SUCCESS : MOSQ_ERR_ACL_DENIED;
	if (check->access == MOSQ_ACL_WRITE) {
		if (session == NULL || session->superseded)
			return check_will(check, name);
		if (strlen(check->topic) > TOPIC_SIZE_MAX)
			return refuse_message(session, "refused-message", "topic-too-long", check->topic);
		if (!session_may_speak(session, rate, burst))
			return refuse_message(session, "refused-message", "rate-exceeded", check->topic);
		if (rest == NULL)
			return refuse_message(session, "foreign-topic", "foreign-topic", check->topic);
		if (allowed(device_writes, rest) != MOSQ_ERR_SUCCESS)
			return refuse_message(session, "refused-message", "unknown-topic", check->topic);
		return MOSQ_ERR_SUCCESS;
	}
	if (rest == NULL || check->access != MOSQ_ACL_READ)
		return MOSQ_ERR_ACL_DENIED;
	return allowed(device_reads, rest);
}

static int on_access(int event, void *data, void *userdata)
{
	const struct mosquitto_evt_acl_check *check = data;
	const char *name = mosquitto_client_username(check->client);

	(void)event;
	(void)userdata;
	if (check->access == MOSQ_ACL_UNSUBSCRIBE)
		return MOSQ_ERR_SUCCESS;
	if (name == NULL)
		return MOSQ_ERR_ACL_DENIED;
	if (name[0] == '@')
		return check_service(check);
	return name[0] == NEWCOMER_MARK ? check_newcomer(check, name + 1) : check_device(check, name);
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
	const char *name = mosquitto_client_username(message->client);
	struct stamp stamp;
	char *topic;
	int result;

	(void)event;
	(void)userdata;
	if (name != NULL && name[0] == '@')
		return MOSQ_ERR_SUCCESS;
	if (session == NULL || rest_of(message->topic, session->identity.newcomer ? "newcomers"
			: "devices", session->identity.name) == NULL)
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
	if (!broker_frees_what_is_replaced())
		mosquitto_free(message->topic);
	message->topic = topic;
	message->retain = false;
	return MOSQ_ERR_SUCCESS;
}

/* ---- a service gives an order ---- */

/* Gives a session that an order closes and that is not ending yet, NULL when there is none left. */
static struct session *next_to_close(bool device, const char *value)
{
	struct session *found = device ? session_with(value) : session_under(value);

	if (found != NULL && found->ending == NULL)
		return found;
	return device ? newcomer_named(value) : NULL;
}

static unsigned close_open_sessions(const char *kind, const char *value)
{
	bool device = strcmp(kind, "device") == 0;
	const char *why = device ? "refused-device" : "refused-certificate";
	struct session *session;
	unsigned closed = 0;

	while ((session = next_to_close(device, value)) != NULL)
		closed += end_session(session, why);
	return closed;
}

static int on_control(int event, void *data, void *userdata)
{
	const struct mosquitto_evt_control *order = data;
	char *answer = control_answer(order->payload, order->payloadlen, &counts, close_open_sessions);

	(void)event;
	(void)userdata;
	if (answer != NULL)
		mosquitto_broker_publish_copy(mosquitto_client_id(order->client), CONTROL_RESPONSE_TOPIC,
			(int)strlen(answer), answer, 1, false, NULL);
	free(answer);
	return MOSQ_ERR_SUCCESS; /* an error would end the service's connection */
}

/* ---- the broker reads its configuration again ---- */

/* At SIGHUP the broker judges all sessions anew by the hook of CONNECT, those that are away as well:
 * they show no certificate. Whom the hook refuses it disconnects, though it is away, and then
 * mosquitto 2.0 uses the session's memory after it has freed it. Orders close sessions at once, so
 * there is nothing to judge. Between the two events the broker takes no CONNECT. */
static int on_reload(int event, void *data, void *userdata)
{
	(void)event;
	(void)data;
	(void)userdata;
	reloading = true;
	return MOSQ_ERR_PLUGIN_DEFER;
}

static int on_tick(int event, void *data, void *userdata)
{
	(void)event;
	(void)data;
	(void)userdata;
	reloading = false;
	return MOSQ_ERR_SUCCESS;
}

/* ---- the plugin begins and ends ---- */

static const char *option(const struct mosquitto_opt *options, int count, const char *key)
{
	for (int i = 0; i < count; i++)
		if (strcmp(options[i].key, key) == 0)
			return options[i].value;
	return "";
}

/* Reads a whole number between two bounds. */
static bool number(const struct mosquitto_opt *options, int count, const char *key, unsigned least,
	unsigned most, unsigned *value, char *error, size_t size)
{
	const char *text = option(options, count, key);
	char *end = NULL;
	unsigned long wanted = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end != '\0' || wanted < least || wanted > most) {
		snprintf(error, size, "plugin_opt_%s must be between %u and %u", key, least, most);
		return false;
	}
	*value = (unsigned)wanted;
	return true;
}

/* Without a file nobody is let in for enrolment. */
static bool open_provisioning(const struct mosquitto_opt *options, int count, char *error,
	size_t size)
{
	const char *path = option(options, count, "provisioning_issuer_file");

	if (path[0] == '\0')
		return true;
	if (!number(options, count, "newcomers", 1, NEWCOMERS_MAX, &newcomers_max, error, size))
		return false;
	issuers.provisioning = issuers_open(path, error, size);
	if (issuers.provisioning == NULL)
		return false;
	if (!issuers_overlap(issuers.provisioning, issuers.devices)
			&& !issuers_overlap(issuers.provisioning, issuers.services))
		return true;
	snprintf(error, size, "%s names a device CA or service CA of ours: it is the makers' list",
		path);
	return false;
}

static bool open_all(const struct mosquitto_opt *options, int count, char *error, size_t size)
{
	if (!number(options, count, "buckets", 1, BUCKETS_MAX, &buckets, error, size)
			|| !number(options, count, "rate", 0, RATE_MAX, &rate, error, size)
			|| !number(options, count, "burst", 1, RATE_MAX, &burst, error, size))
		return false;
	issuers.devices = issuers_open(option(options, count, "device_issuer_file"), error, size);
	if (issuers.devices == NULL)
		return false;
	issuers.services = issuers_open(option(options, count, "service_issuer_file"), error, size);
	return issuers.services != NULL
		&& open_provisioning(options, count, error, size)
		&& stamp_open(option(options, count, "secret_file"), error, size)
		&& refusals_open(option(options, count, "refused_file"), error, size);
}

static bool register_callbacks(mosquitto_plugin_id_t *plugin)
{
	return mosquitto_callback_register(plugin, MOSQ_EVT_BASIC_AUTH, on_connect, NULL, NULL) == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_DISCONNECT, on_disconnect, NULL, NULL) == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_ACL_CHECK, on_access, NULL, NULL) == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_MESSAGE, on_message, NULL, NULL) == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_RELOAD, on_reload, NULL, NULL) == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_TICK, on_tick, NULL, NULL) == 0
		&& mosquitto_callback_register(plugin, MOSQ_EVT_CONTROL, on_control, CONTROL_TOPIC, NULL)
			== 0;
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
	char error[512] = "it is loaded once, with per_listener_settings false";

	(void)userdata;
	if (!is_open && open_all(options, option_count, error, sizeof error)) {
		snprintf(error, sizeof error, "the broker did not take the callbacks");
		is_open = register_callbacks(identifier) && tell_start();
		if (is_open)
			return MOSQ_ERR_SUCCESS;
	}
	mosquitto_log_printf(MOSQ_LOG_ERR, "fleetcert: the identity plugin cannot start: %s", error);
	return MOSQ_ERR_INVAL;
}

int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *options, int option_count)
{
	(void)userdata;
	(void)options;
	(void)option_count;
	sk_X509_pop_free(issuers.devices, X509_free);
	sk_X509_pop_free(issuers.services, X509_free);
	sk_X509_pop_free(issuers.provisioning, X509_free);
	memset(&issuers, 0, sizeof issuers);
	sessions_close();
	refusals_close();
	stamp_close();
	is_open = false;
	return MOSQ_ERR_SUCCESS;
}
