//! What can be wrong with a record set.

/// Which of Python's errors a [`DecodeError`] becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeErrorKind {
    /// The bytes are no record batch, or fail their checksum.
    Corrupt,
    /// A magic byte or a compression codec that is not known here.
    UnsupportedFormat,
    /// Larger than a limit of the configuration.
    TooLarge,
}

/// Why a batch could not be decoded. The message speaks of the batch; whoever knows the topic and partition adds them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// What sort of failure it is.
    pub kind: DecodeErrorKind,
    /// The batch's base offset, or the fetch offset where that is not known.
    pub offset: i64,
    /// What happened and what to do, for people.
    pub message: String,
}

impl DecodeError {
    /// Bytes that make no sense.
    pub fn corrupt(offset: i64, message: impl Into<String>) -> Self {
        Self {
            kind: DecodeErrorKind::Corrupt,
            offset,
            message: message.into(),
        }
    }

    /// A format from a future, or from no Kafka at all.
    pub fn unsupported(offset: i64, message: impl Into<String>) -> Self {
        Self {
            kind: DecodeErrorKind::UnsupportedFormat,
            offset,
            message: message.into(),
        }
    }

    /// More than a limit allows.
    pub fn too_large(offset: i64, message: impl Into<String>) -> Self {
        Self {
            kind: DecodeErrorKind::TooLarge,
            offset,
            message: message.into(),
        }
    }
}
