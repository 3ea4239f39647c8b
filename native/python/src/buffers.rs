//! Bytes in and out of Python's buffer protocol.

use std::ffi::c_int;

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

/// Calls `function` with the bytes of any object that has the buffer protocol: of `bytes` directly, of others by a copy,
/// because they may change while they are read.
pub fn with_bytes<R>(object: &Bound<'_, PyAny>, function: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(function(bytes.as_bytes()));
    }
    let copy = PyBuffer::<u8>::get(object)?.to_vec(object.py())?;
    Ok(function(&copy))
}

/// What a memoryview of fetched bytes keeps alive.
#[pyclass(name = "_SharedBytes", module = "penstock._native", frozen)]
pub struct SharedBytes {
    bytes: Bytes,
}

impl SharedBytes {
    /// A read-only view, without a copy.
    pub fn view(py: Python<'_>, bytes: Bytes) -> PyResult<Bound<'_, PyMemoryView>> {
        PyMemoryView::from(Bound::new(py, Self { bytes })?.as_any())
    }
}

#[pymethods]
impl SharedBytes {
    #[expect(unsafe_code, reason = "the buffer protocol is one of pointers")]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let bytes = &slf.get().bytes;
        let length = isize::try_from(bytes.len())?;
        const READ_ONLY: c_int = 1;
        // SAFETY: `view` is what Python wants filled. The bytes do not move and live as long as `slf`, which the view
        // holds a reference to; they are never written to, here (they are frozen) or through the view (READ_ONLY).
        let status = unsafe {
            let start = bytes.as_ptr().cast_mut().cast();
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, READ_ONLY, flags)
        };
        if status == 0 {
            return Ok(());
        }
        Err(PyErr::take(slf.py())
            .unwrap_or_else(|| PyBufferError::new_err("no buffer of this kind")))
    }
}
