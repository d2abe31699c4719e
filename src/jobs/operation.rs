//! The operations of a job queue, and what comes of them.

use crate::message::ResponseHead;

/// One operation of a job queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `GET /health`
    Health,
    /// `POST /run`
    Submit,
    /// `GET /stream/{job}`
    Stream,
    /// `GET /status/{job}`
    Status,
    /// `POST /cancel/{job}`
    Cancel,
}

impl Op {
    /// The longest that its answer is waited for, in milliseconds.
    pub const fn limit_ms(self) -> u64 {
        match self {
            // Worth less than the job that waits for it.
            Self::Health => 1500,
            // It carries up to 20 MB.
            Self::Submit => 30_000,
            Self::Stream | Self::Status => 10_000,
            // Several must fit into the half minute that a Worker has behind its response.
            Self::Cancel => 5000,
        }
    }
}

/// What came of an operation.
#[derive(Clone, Debug)]
pub enum Answer<'a> {
    /// A whole answer.
    Whole {
        /// Status and fields.
        head: &'a ResponseHead,
        /// The body.
        body: Vec<u8>,
    },
    /// None, or half of one: nobody knows what it was.
    Lost,
}
