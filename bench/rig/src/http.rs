//! The messages that arrive on a connection.

use httparse::Status;
use std::io::{Error, ErrorKind, Read, Result};

/// More than a head ever is, and what one read of a fast stream gets.
const BUFFER: usize = 64 * 1024;

/// Reads message after message: first a head, then its body, piece by piece.
pub struct Messages<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Of the body or, when that is chunked, of the current chunk.
    left: usize,
    chunks: Chunks,
}

/// How far a chunked body has been read.
#[derive(PartialEq)]
enum Chunks {
    /// It is not chunked, or has been read.
    None,
    /// The next thing is a chunk's size.
    Size,
    /// The next thing is a chunk's bytes, then the line end behind them.
    Bytes,
}

impl<R: Read> Messages<R> {
    pub fn new(source: R) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { source, buffer, start: 0, end: 0, left: 0, chunks: Chunks::None }
    }

    /// The head of a request; `false` when no further one comes.
    pub fn request(&mut self) -> Result<bool> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            if let Status::Complete(length) = request.parse(self.unread()).map_err(Error::other)? {
                let framing = framing(request.headers);
                self.begin(length, framing);
                return Ok(true);
            }
            match self.fill() {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && self.unread().is_empty() => return Ok(false),
                other => other?,
            }
        }
    }

    /// The head of a response: its status.
    pub fn response(&mut self) -> Result<u16> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            if let Status::Complete(length) = response.parse(self.unread()).map_err(Error::other)? {
                let (status, framing) = (response.code.unwrap_or_default(), framing(response.headers));
                self.begin(length, framing);
                return Ok(status);
            }
            self.fill()?;
        }
    }

    /// The next bytes of the body, as many as are there; `None` at its end.
    pub fn piece(&mut self) -> Result<Option<&[u8]>> {
        if self.left == 0 && self.chunks == Chunks::Bytes {
            self.line_end()?;
            self.chunks = Chunks::Size;
        }
        if self.chunks == Chunks::Size {
            self.left = self.chunk_size()?;
            self.chunks = Chunks::Bytes;
            if self.left == 0 {
                self.line_end()?;
                self.chunks = Chunks::None;
            }
        }
        if self.left == 0 {
            return Ok(None);
        }
        if self.unread().is_empty() {
            self.fill()?;
        }
        let length = self.left.min(self.unread().len());
        self.left -= length;
        self.start += length;
        Ok(Some(&self.buffer[self.start - length..self.start]))
    }

    fn begin(&mut self, length: usize, framing: Option<usize>) {
        self.start += length;
        self.left = framing.unwrap_or(0);
        self.chunks = if framing.is_some() { Chunks::None } else { Chunks::Size };
    }

    fn chunk_size(&mut self) -> Result<usize> {
        loop {
            match httparse::parse_chunk_size(self.unread()) {
                Ok(Status::Complete((length, size))) => {
                    self.start += length;
                    return Ok(size as usize);
                }
                Ok(Status::Partial) => self.fill()?,
                Err(_) => return Err(Error::other("a chunk without a size")),
            }
        }
    }

    fn line_end(&mut self) -> Result<()> {
        while self.unread().len() < 2 {
            self.fill()?;
        }
        if !self.unread().starts_with(b"\r\n") {
            return Err(Error::other("a chunk that is longer than its size"));
        }
        self.start += 2;
        Ok(())
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Waits for at least one more byte.
    fn fill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match self.source.read(&mut self.buffer[self.end..])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => {
                self.end += length;
                Ok(())
            }
        }
    }
}

/// The length of the body that these headers announce; `None` for a chunked one.
fn framing(headers: &[httparse::Header<'_>]) -> Option<usize> {
    let value = |name: &str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if value("transfer-encoding").is_some() {
        return None;
    }
    let length = value("content-length").and_then(|header| str::from_utf8(header.value).ok());
    Some(length.and_then(|length| length.parse().ok()).unwrap_or(0))
}
