//! Records as capsules of Arrow's C data interface.
//! Source: <https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html>.

use std::ffi::CStr;

use arrow_schema::DataType;
use arrow_schema::ffi::FFI_ArrowSchema;
use penstock_dataplane::arrow_columns::{self, BinaryLayout, Slice};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::errors;

const SCHEMA_CAPSULE: &CStr = c"arrow_schema";
const STREAM_CAPSULE: &CStr = c"arrow_array_stream";

/// A capsule with the stream; with the layout that the requested schema has for `value`, where it has that.
pub fn stream<'py>(
    py: Python<'py>,
    slices: Vec<Slice>,
    requested_schema: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let layout = match requested_schema {
        Some(requested) => layout_of(requested)?,
        None => BinaryLayout::Binary,
    };
    PyCapsule::new_with_value(py, arrow_columns::stream(slices, layout), STREAM_CAPSULE)
}

/// A capsule with the schema that `stream` has without a request.
pub fn schema(py: Python<'_>) -> PyResult<Bound<'_, PyCapsule>> {
    let schema = FFI_ArrowSchema::try_from(arrow_columns::schema(BinaryLayout::Binary))
        .map_err(errors::fault)?;
    PyCapsule::new_with_value(py, schema, SCHEMA_CAPSULE)
}

/// A consumer may ask for anything; what is not understood gets the default layout (the protocol allows that).
#[expect(unsafe_code, reason = "a capsule holds a pointer")]
fn layout_of(requested: &Bound<'_, PyAny>) -> PyResult<BinaryLayout> {
    let capsule = requested.cast::<PyCapsule>()?;
    let pointer = capsule
        .pointer_checked(Some(SCHEMA_CAPSULE))?
        .cast::<FFI_ArrowSchema>();
    // SAFETY: by the PyCapsule protocol a capsule of this name, which was checked, points to a valid ArrowSchema that
    // lives as long as the capsule, which is borrowed here.
    let schema = unsafe { pointer.as_ref() };
    let wants_views = match DataType::try_from(schema) {
        Ok(DataType::Struct(fields)) => fields
            .find("value")
            .is_some_and(|(_, field)| *field.data_type() == DataType::BinaryView),
        _ => false,
    };
    Ok(if wants_views {
        BinaryLayout::View
    } else {
        BinaryLayout::Binary
    })
}
