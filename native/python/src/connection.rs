//! `Connection`.

use std::sync::Arc;
use std::time::Duration;

use penstock_dataplane::connection::{Connection, Settings};
use pyo3::prelude::*;

use crate::buffers::with_bytes;
use crate::errors;
use crate::events::PyEventQueue;

/// One TCP connection and its native thread, which connects, writes queued requests and reads frames.
#[pyclass(name = "Connection", module = "penstock._native", frozen)]
pub struct PyConnection {
    pub connection: Connection,
}

#[pymethods]
impl PyConnection {
    #[new]
    #[pyo3(signature = (
        events, connection_id, host, port, *, connect_timeout_ms = 10_000, max_frame_bytes = 1_073_741_824,
        send_buffer_bytes = 131_072, receive_buffer_bytes = 65_536,
    ))]
    #[expect(clippy::too_many_arguments, reason = "one keyword each in Python")]
    fn new(
        events: &PyEventQueue,
        connection_id: i64,
        host: String,
        port: u16,
        connect_timeout_ms: u64,
        max_frame_bytes: usize,
        send_buffer_bytes: i64,
        receive_buffer_bytes: i64,
    ) -> PyResult<Self> {
        let settings = Settings {
            host,
            port,
            connect_timeout: Duration::from_millis(connect_timeout_ms),
            max_frame_bytes: max_frame_bytes.min(i32::MAX as usize),
            send_buffer_bytes: usize::try_from(send_buffer_bytes).ok(),
            receive_buffer_bytes: usize::try_from(receive_buffer_bytes).ok(),
        };
        let connection = Connection::open(connection_id, settings, Arc::clone(&events.queue))?;
        Ok(Self { connection })
    }

    /// Queue one request: header and body, without the length prefix, which is added here.
    #[pyo3(signature = (correlation_id, payload, expect_response = true))]
    fn send(
        &self,
        py: Python<'_>,
        correlation_id: i32,
        payload: &Bound<'_, PyAny>,
        expect_response: bool,
    ) -> PyResult<()> {
        self.check(py)?;
        with_bytes(payload, |payload| {
            self.connection
                .send(correlation_id, payload, expect_response)
        })
    }

    /// Requests that were queued or sent and are not answered yet.
    fn in_flight(&self) -> usize {
        self.connection.in_flight()
    }

    /// End the connection; idempotent. EVENT_CLOSED follows.
    fn close(&self) {
        self.connection.close();
    }
}

impl PyConnection {
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        errors::check_process(py, self.connection.process_id(), "this connection")
    }
}
