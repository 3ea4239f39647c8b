//! From Rust's errors to the classes of `penstock.errors`, which are imported when the first one is needed.

use penstock_dataplane::error::{DecodeError, DecodeErrorKind};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyModule;

fn error_class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    PyModule::import(py, "penstock.errors")?.getattr(name)
}

/// An error of `penstock.errors` whose constructor takes these arguments; the failure to make one if that fails.
pub fn make<'py, A>(py: Python<'py>, name: &str, arguments: A) -> PyErr
where
    A: pyo3::call::PyCallArgs<'py>,
{
    match error_class(py, name).and_then(|class| class.call1(arguments)) {
        Ok(error) => PyErr::from_value(error),
        Err(failure) => failure,
    }
}

/// `ForkedError` outside the process that made the object.
pub fn check_process(py: Python<'_>, process_id: u32, what: &str) -> PyResult<()> {
    let here = std::process::id();
    if here == process_id {
        return Ok(());
    }
    let message = format!(
        "{what} was created in process {process_id} and this is its forked child {here}: threads and connections do \
         not survive fork(); make a new one in the child"
    );
    Err(make(py, "ForkedError", (message,)))
}

/// `ClosedError`.
pub fn closed(py: Python<'_>, what: &str) -> PyErr {
    make(py, "ClosedError", (format!("{what} is closed"),))
}

/// The record error that a decode error stands for. `past`: the offset after the batch, where its header tells it.
///
/// The error's offset is the last one that the batch covers: `seek(partition, offset + 1)` goes past it.
pub fn of_decode(
    py: Python<'_>,
    error: &DecodeError,
    past: Option<i64>,
    topic: &str,
    partition: i32,
) -> PyErr {
    let class = match error.kind {
        DecodeErrorKind::Corrupt => "CorruptRecordError",
        DecodeErrorKind::UnsupportedFormat => "UnsupportedFormatError",
        DecodeErrorKind::TooLarge => "RecordTooLargeError",
    };
    let place = if topic.is_empty() {
        "record set".into()
    } else {
        format!("{topic}-{partition}")
    };
    let at = error.offset;
    let remedy = past
        .map(|past| format!("; seek to offset {past} to go past it"))
        .unwrap_or_default();
    let message = format!("{place} at offset {at}: {}{remedy}", error.message);
    let last = past.map_or(at, |past| at.max(past - 1));
    make(py, class, (message, topic, partition, last))
}

/// An error that is raised again and again: without the traceback of the last time, which would grow with each.
pub fn again(py: Python<'_>, error: &Py<PyAny>) -> PyErr {
    let error = error.bind(py);
    match error.setattr("__traceback__", py.None()) {
        Ok(()) => PyErr::from_value(error.clone()),
        Err(failure) => failure,
    }
}

/// For what only a fault of penstock itself can cause.
pub fn fault(message: impl std::fmt::Display) -> PyErr {
    PyRuntimeError::new_err(format!("a fault of penstock itself: {message}"))
}
