//! Bytes in and out of Python's buffer protocol.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Calls `function` with the bytes of any object that has the buffer protocol: of `bytes` directly, of others by a copy,
/// because they may change while they are read.
pub fn with_bytes<R>(object: &Bound<'_, PyAny>, function: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(function(bytes.as_bytes()));
    }
    let copy = PyBuffer::<u8>::get(object)?.to_vec(object.py())?;
    Ok(function(&copy))
}
