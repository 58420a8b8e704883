//! DTLS 1.3 for Python: `Context` and `Association`, sans-IO. See README.md.

#[forbid(unsafe_code)]
mod association;
#[cfg(feature = "python")]
mod python;

pub use association::{Association, Context, DATAGRAM_BYTES_MAX, Limits, OVERHEAD_BYTES, Output};
