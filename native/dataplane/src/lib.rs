//! penstock's data plane: where bytes move. No Python in it.

pub mod arrow_columns;
pub mod batch;
pub mod buffer;
mod chunk_build;
pub mod compression;
mod connect;
pub mod connection;
pub mod crc;
pub mod decode;
pub mod encode;
pub mod error;
pub mod events;
pub mod fetch;
pub mod frame;
pub mod heartbeat;
mod heartbeat_answer;
mod legacy;
pub mod murmur2;
pub mod progress;
pub mod record;
mod recycle;
mod runner;
pub mod signal;
mod transactions;
mod v2;
mod varint;
