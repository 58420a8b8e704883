//! The same two types for Python; the stub is `fleetcert_dtls13.pyi`.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::association::{self, Limits, Output};

type Told<'py> = Vec<(&'static str, Bound<'py, PyBytes>)>;

#[pyclass(module = "fleetcert_dtls13", frozen)]
struct Context(association::Context);

#[pymethods]
impl Context {
    #[new]
    #[pyo3(signature = (certificate, private_key, *, server, mtu=1232, retransmit_seconds=1.0,
                        retries=6, handshake_seconds=40.0))]
    fn new(
        certificate: Vec<u8>,
        private_key: Vec<u8>,
        server: bool,
        mtu: usize,
        retransmit_seconds: f64,
        retries: usize,
        handshake_seconds: f64,
    ) -> PyResult<Self> {
        let limits = Limits {
            mtu,
            retransmit: seconds(retransmit_seconds)?,
            retries,
            handshake: seconds(handshake_seconds)?,
        };
        association::Context::new(server, certificate, private_key, limits)
            .map(Self)
            .map_err(PyValueError::new_err)
    }

    #[getter]
    fn send_bytes_max(&self) -> usize {
        self.0.send_bytes_max()
    }
}

#[pyclass(module = "fleetcert_dtls13", frozen)]
struct Association(Mutex<association::Association>);

#[pymethods]
impl Association {
    #[new]
    fn new(context: &Context) -> Self {
        Self(Mutex::new(association::Association::new(
            &context.0,
            Instant::now(),
        )))
    }

    fn receive<'py>(&self, py: Python<'py>, datagram: &[u8]) -> Told<'py> {
        told(py, self.inner().receive(datagram, Instant::now()))
    }

    fn tick<'py>(&self, py: Python<'py>) -> Told<'py> {
        told(py, self.inner().tick(Instant::now()))
    }

    fn send<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Told<'py>> {
        let sent = self.inner().send(data, Instant::now());
        sent.map(|outputs| told(py, outputs))
            .map_err(PyValueError::new_err)
    }

    fn close<'py>(&self, py: Python<'py>) -> Told<'py> {
        told(py, self.inner().close())
    }

    fn delay(&self) -> Option<f64> {
        self.inner()
            .delay(Instant::now())
            .map(|one| one.as_secs_f64())
    }
}

impl Association {
    /// No call panics while it holds the lock, so a poisoned one is as good as any.
    fn inner(&self) -> MutexGuard<'_, association::Association> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn told(py: Python<'_>, outputs: Vec<Output>) -> Told<'_> {
    let pair = |output| match output {
        Output::Datagram(bytes) => ("datagram", PyBytes::new(py, &bytes)),
        Output::Connected(bytes) => ("connected", PyBytes::new(py, &bytes)),
        Output::Data(bytes) => ("data", PyBytes::new(py, &bytes)),
        Output::Closed => ("closed", PyBytes::new(py, b"")),
        Output::Failed(why) => ("failed", PyBytes::new(py, why.as_bytes())),
    };
    outputs.into_iter().map(pair).collect()
}

fn seconds(value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|error| PyValueError::new_err(error.to_string()))
}

#[pymodule]
fn fleetcert_dtls13(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Context>()?;
    module.add_class::<Association>()
}
