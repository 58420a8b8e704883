"""Why: the closed list of reasons. A refusal, failure or alert carries exactly one of these."""

from enum import StrEnum


class Reason(StrEnum):
    """One sentence each; the glossary is drawn from these docstrings."""

    NONE = "none"
    ORDERED = "ordered"
    DEVICE_ASKED = "device-asked"
    NEAR_EXPIRY = "near-expiry"
    EXPIRED = "expired"
    REGISTERED = "registered"
    ALREADY_REGISTERED = "already-registered"
    UNKNOWN_DEVICE = "unknown-device"
    DEVICE_RETIRED = "device-retired"
    REPLACED = "replaced"
    UNKNOWN_TYPE = "unknown-type"
    UNDECODABLE = "undecodable"
    OVERSIZE = "oversize"
    RATE_EXCEEDED = "rate-exceeded"
    MALFORMED = "malformed"
    FOREIGN_TOPIC = "foreign-topic"
    UNSIGNED_STAMP = "unsigned-stamp"
    REPEATED = "repeated"
    CLOCK_OFF = "clock-off"
    STEP_RAISED = "step-raised"
    FINGERPRINT_UNKNOWN = "fingerprint-unknown"
    CERTIFICATE_RETIRED = "certificate-retired"
    UNDER_RETIRED = "under-retired"
    DEVICE_BLOCKED = "device-blocked"
    WRONG_NONCE = "wrong-nonce"
    WRONG_SUBJECT = "wrong-subject"
    WRONG_SIGNATURE = "wrong-signature"
    WEAK_KEY = "weak-key"
    KEY_REUSED = "key-reused"
    NO_ROTATION = "no-rotation"
    RENEWAL_IN_WORK = "renewal-in-work"
    RENEWED_OFTEN = "renewed-often"
    ISSUER_REFUSED = "issuer-refused"
    ISSUER_AWAY = "issuer-away"
    DEVICE_AWAY = "device-away"
    DEVICE_REFUSED = "device-refused"
    DEVICE_FAILED = "device-failed"
    ROLLED_BACK = "rolled-back"
    NOT_PROVEN = "not-proven"
    ATTEMPTS_SPENT = "attempts-spent"
    PROVEN_IN_USE = "proven-in-use"
    FLAPPING = "flapping"
    SILENT = "silent"
    ERROR_RATE = "error-rate"
    MESSAGE_RATE = "message-rate"
    MESSAGE_SIZE = "message-size"
    SEQUENCE_GAP = "sequence-gap"
    TWO_ADDRESSES = "two-addresses"
    DOOR_AWAY = "door-away"
    DOOR_REMOVED = "door-removed"
    RECOVERED = "recovered"
    DETECTION_OFF = "detection-off"
    FLEET_EXISTS = "fleet-exists"
    UNKNOWN_FLEET = "unknown-fleet"
    INVALID_CONFIG = "invalid-config"
    VERSION_CONFLICT = "version-conflict"
    UNKNOWN_VERSION = "unknown-version"
    FLEET_FULL = "fleet-full"
    IN_ANOTHER_FLEET = "in-another-fleet"
    NOT_A_MEMBER = "not-a-member"
    MATCHED = "matched"
    UNMATCHED = "unmatched"
    TOO_MANY_QUERIES = "too-many-queries"
    MOVED = "moved"
    INVALID_CAMPAIGN = "invalid-campaign"
    CAMPAIGN_EXISTS = "campaign-exists"
    UNKNOWN_CAMPAIGN = "unknown-campaign"
    TOO_MANY_CAMPAIGNS = "too-many-campaigns"
    WRONG_STATE = "wrong-state"
    NOT_YET = "not-yet"
    WINDOW_CLOSED = "window-closed"
    BATCH_FULL = "batch-full"
    RATE_LIMITED = "rate-limited"
    GATE_CLOSED = "gate-closed"
    NOBODY_READY = "nobody-ready"
    NEXT_IN_LINE = "next-in-line"
    EXPIRY_WINS = "expiry-wins"
    RETRIED = "retried"
    DEVICE_BUSY = "device-busy"
    TIMED_OUT = "timed-out"
    LATE = "late"
    FAILURE_THRESHOLD = "failure-threshold"
    SUCCESS_THRESHOLD = "success-threshold"
    ALL_DONE = "all-done"
    END_REACHED = "end-reached"
    ROTATION_DISABLED = "rotation-disabled"
    LATENCY = "latency"
    SESSION_CLOSED = "session-closed"
    TOO_MANY_HOPS = "too-many-hops"
    INVITATION_UNKNOWN = "invitation-unknown"
    INVITATION_EXPIRED = "invitation-expired"
    INVITATION_SPENT = "invitation-spent"
    APPROVED = "approved"
    PROVISIONED = "provisioned"
    APPROVAL_AWAITED = "approval-awaited"
    JUST_IN_TIME_OFF = "just-in-time-off"
    TOO_MANY_PENDING = "too-many-pending"
    ANOTHER_PENDING = "another-pending"
    REJECTED = "rejected"
    NOT_PENDING = "not-pending"
    PROVISIONING_ONLY = "provisioning-only"
    TOO_MANY_NEWCOMERS = "too-many-newcomers"
    NOT_APPROVED = "not-approved"


SENTENCES: dict[Reason, str] = {
    Reason.NONE: "Nothing was refused.",
    Reason.ORDERED: "An operator asked for it.",
    Reason.DEVICE_ASKED: "The device asked for its next certificate by itself.",
    Reason.NEAR_EXPIRY: "The certificate reached daysBeforeExpiry or two thirds of its lifetime.",
    Reason.EXPIRED: "The instant lies after the end of validity.",
    Reason.REGISTERED: "An operator registered the device with this certificate.",
    Reason.ALREADY_REGISTERED: "The device id is taken.",
    Reason.UNKNOWN_DEVICE: "No device of this id is registered.",
    Reason.DEVICE_RETIRED: "The device was retired for good; its id is never used again.",
    Reason.REPLACED: "Another device took its place.",
    Reason.UNKNOWN_TYPE: "The record or event type is not part of the language.",
    Reason.UNDECODABLE: "The bytes are not a record of the language.",
    Reason.OVERSIZE: "The payload is longer than its limit.",
    Reason.RATE_EXCEEDED: "The device sends more messages than its door takes.",
    Reason.MALFORMED: "The payload is not what its content type says.",
    Reason.FOREIGN_TOPIC: "The device wrote to a topic that names another device.",
    Reason.UNSIGNED_STAMP: "The identity stamp is absent or wrongly signed (a will, a forgery).",
    Reason.REPEATED: "The same event came before.",
    Reason.CLOCK_OFF: "The clock of a tick or a door lies far off its record's broker time.",
    Reason.STEP_RAISED: "A step raised an exception; the record is set aside.",
    Reason.FINGERPRINT_UNKNOWN: "No certificate of this fingerprint was issued to the device.",
    Reason.CERTIFICATE_RETIRED: "The certificate was replaced and its grace is over.",
    Reason.UNDER_RETIRED: "Said by a session of a retired certificate within its grace.",
    Reason.DEVICE_BLOCKED: "The identity is blocked.",
    Reason.WRONG_NONCE: "The nonce is not the one of the command.",
    Reason.WRONG_SUBJECT: "The request names another device.",
    Reason.WRONG_SIGNATURE: "A signature of the request does not verify.",
    Reason.WEAK_KEY: "The key is not P-256, P-384, Ed25519 or RSA of 2048 bits and more.",
    Reason.KEY_REUSED: "The request carries a key that the device already used.",
    Reason.NO_ROTATION: "No rotation of the device waits for this.",
    Reason.RENEWAL_IN_WORK: "Another rotation of the device is on its way; ask again later.",
    Reason.RENEWED_OFTEN: "The device was given several certificates within the hour.",
    Reason.ISSUER_REFUSED: "The issuer refused to sign.",
    Reason.ISSUER_AWAY: "The issuer did not answer in time.",
    Reason.DEVICE_AWAY: "The device did not answer the command in time.",
    Reason.DEVICE_REFUSED: "The device refused the command.",
    Reason.DEVICE_FAILED: "The device accepted the command and failed.",
    Reason.ROLLED_BACK: "The update was not healthy; the device runs again what it ran before.",
    Reason.NOT_PROVEN: "The device did not come back with the new certificate in time.",
    Reason.ATTEMPTS_SPENT: "Every attempt failed; a person must look.",
    Reason.PROVEN_IN_USE: "The first event came under the new certificate.",
    Reason.FLAPPING: "Connections open and close too often.",
    Reason.SILENT: "No event within three health check intervals.",
    Reason.ERROR_RATE: "Too many reports are errors.",
    Reason.MESSAGE_RATE: "Messages come far faster than in the device's own past.",
    Reason.MESSAGE_SIZE: "Messages are far larger than in the device's own past.",
    Reason.SEQUENCE_GAP: "Numbers of the device's own sequence are missing.",
    Reason.TWO_ADDRESSES: "One certificate is in use from two addresses at once.",
    Reason.DOOR_AWAY: "Nobody serves this share of a door; its devices' silence does not count.",
    Reason.DOOR_REMOVED: "Nobody served this share for a week: silence behind it counts again.",
    Reason.RECOVERED: "The alert's condition has ended.",
    Reason.DETECTION_OFF: "Anomaly detection was switched off.",
    Reason.FLEET_EXISTS: "The fleet id is taken.",
    Reason.UNKNOWN_FLEET: "There is no fleet of this id.",
    Reason.INVALID_CONFIG: "The configuration is not valid; the detail names the path.",
    Reason.VERSION_CONFLICT: "The configuration has changed since the version named.",
    Reason.UNKNOWN_VERSION: "The configuration's history does not hold this version.",
    Reason.FLEET_FULL: "The fleet has as many members as maxDevices allows.",
    Reason.IN_ANOTHER_FLEET: "The device is a member of another fleet.",
    Reason.NOT_A_MEMBER: "The device is no member of the fleet.",
    Reason.MATCHED: "The fleet's membership query finds the device.",
    Reason.UNMATCHED: "The fleet's membership query no longer finds the device.",
    Reason.TOO_MANY_QUERIES: "As many fleets have queries as one partition remembers.",
    Reason.MOVED: "The device went to another fleet.",
    Reason.INVALID_CAMPAIGN: "The campaign is not valid; the detail says what is wrong.",
    Reason.CAMPAIGN_EXISTS: "The campaign id is taken.",
    Reason.UNKNOWN_CAMPAIGN: "The fleet has no campaign of this id.",
    Reason.TOO_MANY_CAMPAIGNS: "The fleet has as many open campaigns as it may have.",
    Reason.WRONG_STATE: "The campaign's state does not allow it.",
    Reason.NOT_YET: "The instant at which it begins has not come.",
    Reason.WINDOW_CLOSED: "The window is closed.",
    Reason.BATCH_FULL: "As many devices are in work as batchSize allows.",
    Reason.RATE_LIMITED: "As many orders went out as the rate allows.",
    Reason.GATE_CLOSED: "A person must let the next group begin.",
    Reason.NOBODY_READY: "Nobody in the queue is ready yet.",
    Reason.NEXT_IN_LINE: "The device's turn came.",
    Reason.EXPIRY_WINS: "No window opens before the certificate ends.",
    Reason.RETRIED: "An attempt failed; the next one comes after a back-off.",
    Reason.DEVICE_BUSY: "The device is in work for another campaign.",
    Reason.TIMED_OUT: "The device did not finish in time.",
    Reason.LATE: "The order had ended before.",
    Reason.FAILURE_THRESHOLD: "More devices failed than failureThreshold allows.",
    Reason.SUCCESS_THRESHOLD: "Too few devices of the group succeeded to open the next group.",
    Reason.ALL_DONE: "Every device has finished.",
    Reason.END_REACHED: "The campaign's last instant came.",
    Reason.ROTATION_DISABLED: "The fleet's configuration has certRotation.enabled off.",
    Reason.LATENCY: "Commands are answered too slowly.",
    Reason.SESSION_CLOSED: "The device has no session.",
    Reason.TOO_MANY_HOPS: "Machines have answered each other too often.",
    Reason.INVITATION_UNKNOWN: "No invitation of the device has this token.",
    Reason.INVITATION_EXPIRED: "The invitation is over; an operator may invite the device anew.",
    Reason.INVITATION_SPENT: "The invitation was used with another key.",
    Reason.APPROVED: "An operator approved the device with this certificate.",
    Reason.PROVISIONED: "A provisioning CA names the device; it enrols by that certificate.",
    Reason.APPROVAL_AWAITED: "An operator must approve the device first.",
    Reason.JUST_IN_TIME_OFF: "Unknown devices are not let in: the policy just_in_time is off.",
    Reason.TOO_MANY_PENDING: "As many devices wait for approval as one partition holds.",
    Reason.ANOTHER_PENDING: "Another certificate of the same device id waits for approval.",
    Reason.REJECTED: "An operator rejected the device with this certificate.",
    Reason.NOT_PENDING: "Nobody waits for approval with this id and this certificate.",
    Reason.PROVISIONING_ONLY: "A provisioning certificate is good for enrolment alone.",
    Reason.TOO_MANY_NEWCOMERS: "A door holds no more sessions of newcomers: the first gave way.",
    Reason.NOT_APPROVED: "Nobody approved the device within the term of those who wait.",
}
