//! `penstock._native`: PyO3 glue only. What it does is said in `_native.pyi`; how, in the data plane's crate.

// PyO3's macros write items of their own; the stub documents them.
#![allow(missing_docs)]

use pyo3::prelude::*;

mod arrow;
mod batches;
mod buffers;
mod connection;
mod errors;
mod events;
mod fetcher;
mod packing;
mod record;
mod records;

/// The native data plane as Python sees it.
#[pymodule]
mod _native {
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    const EVENT_CONNECTED: i64 = crate::events::EVENT_CONNECTED;
    #[pymodule_export]
    const EVENT_RESPONSE: i64 = crate::events::EVENT_RESPONSE;
    #[pymodule_export]
    const EVENT_CLOSED: i64 = crate::events::EVENT_CLOSED;
    #[pymodule_export]
    const EVENT_FETCH_ERROR: i64 = crate::events::EVENT_FETCH_ERROR;
    #[pymodule_export]
    const EVENT_FETCH_NODE_ERROR: i64 = crate::events::EVENT_FETCH_NODE_ERROR;
    #[pymodule_export]
    const EVENT_HEARTBEAT: i64 = crate::events::EVENT_HEARTBEAT;
    #[pymodule_export]
    const EVENT_HEARTBEATS_STOPPED: i64 = crate::events::EVENT_HEARTBEATS_STOPPED;
    #[pymodule_export]
    const EVENT_PREFERRED_REPLICA: i64 = crate::events::EVENT_PREFERRED_REPLICA;
    #[pymodule_export]
    const EVENT_DIVERGING: i64 = crate::events::EVENT_DIVERGING;

    #[pymodule_export]
    use crate::batches::{PyBatchBuilder, crc32c, decode_batches, murmur2_partition};
    #[pymodule_export]
    use crate::connection::PyConnection;
    #[pymodule_export]
    use crate::events::PyEventQueue;
    #[pymodule_export]
    use crate::fetcher::PyFetcher;
    #[pymodule_export]
    use crate::packing::{PyCopyEncoder, unpack_records};
    #[pymodule_export]
    use crate::record::PyConsumerRecord;
    #[pymodule_export]
    use crate::records::PyConsumerRecords;
}
