//! The bytes of one connection, seen on their way between socket and HTTP.
//!
//! [`Stream`] passes them through, with the one exception that [`crate::target`] describes, and notes three
//! things for the [`Watch`]: that a head has begun, that an answer has been written, and that the client has closed its sending half.
//! The last is kept back from HTTP while a request is worked on: a client may close its sending half
//! and still want its answer. It is delivered when the answer is out.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    limits::LINGER_BYTES,
    target::{self, Aside, Inspection},
    vitals::{Phase, Vitals, Watch},
};

/// A connection's byte stream under watch.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    inner: S,
    vitals: Arc<Vitals>,
    watch: Arc<Watch>,
    end_of_input: bool,
    is_shut: bool,
    lingered_bytes: usize,
    aside: Arc<Aside>,
    /// Bytes of a head that are kept back until its first line is complete, or that stand in place of it.
    held: Vec<u8>,
    /// How many of them the reader has.
    released: usize,
    is_gathering: bool,
    head_bytes_max: usize,
}

impl<S> Stream<S> {
    /// Puts a stream under watch.
    pub(crate) fn new(
        inner: S,
        vitals: Arc<Vitals>,
        watch: Arc<Watch>,
        aside: Arc<Aside>,
        head_bytes_max: usize,
    ) -> Self {
        Self {
            inner,
            vitals,
            watch,
            end_of_input: false,
            is_shut: false,
            lingered_bytes: 0,
            aside,
            held: Vec::new(),
            released: 0,
            is_gathering: false,
            head_bytes_max,
        }
    }

    /// Looks at bytes that begin a head, or go on with its first line; they stand behind `before` in
    /// `buffer`. Returns whether the reader may have what is in `buffer` and `held` now.
    fn inspect(&mut self, buffer: &mut ReadBuf<'_>, before: usize) -> bool {
        let came = &buffer.filled()[before..];
        if self.is_gathering {
            self.held.extend_from_slice(came);
            // Longer than a head may be: the HTTP library is to refuse it.
            let is_too_long = self.held.len() > self.head_bytes_max;
            if !is_too_long && !came.contains(&b'\n') {
                buffer.set_filled(before);
                return false;
            }
            self.is_gathering = false;
            if let Inspection::Replace(bytes) = target::inspect(&self.held, &self.aside) {
                self.held = bytes;
            }
        } else {
            match target::inspect(came, &self.aside) {
                Inspection::Pass => return true,
                Inspection::Replace(bytes) => self.held = bytes,
                Inspection::More => {
                    self.held.extend_from_slice(came);
                    self.is_gathering = true;
                }
            }
        }
        buffer.set_filled(before);
        !self.is_gathering
    }

    /// Gives the reader as much of `held` as it takes.
    fn release(&mut self, buffer: &mut ReadBuf<'_>) {
        let end = self.held.len().min(self.released + buffer.remaining());
        buffer.put_slice(&self.held[self.released..end]);
        self.released = end;
        if end == self.held.len() {
            self.held = Vec::new();
            self.released = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let phase = this.vitals.phase();
        if !this.held.is_empty() && !this.is_gathering {
            this.release(buffer);
            return Poll::Ready(Ok(()));
        }
        while !this.end_of_input {
            let before = buffer.filled().len();
            match ready!(Pin::new(&mut this.inner).poll_read(context, buffer)) {
                Ok(()) => {}
                // A TLS client that goes without saying so.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if buffer.filled().len() == before {
                this.end_of_input = true;
                this.is_gathering = false;
                this.vitals.end_of_input(this.watch.now());
                break;
            }
            if phase != Phase::Head {
                return Poll::Ready(Ok(()));
            }
            let begins = this.vitals.head_bytes(this.watch.now());
            if !begins && !this.is_gathering {
                return Poll::Ready(Ok(()));
            }
            if this.inspect(buffer, before) {
                if !this.held.is_empty() {
                    this.release(buffer);
                }
                return Poll::Ready(Ok(()));
            }
        }
        if !this.held.is_empty() {
            this.release(buffer);
            return Poll::Ready(Ok(()));
        }
        match phase {
            // HTTP would drop the request. Whoever reads a body asks the vital signs whether more can come;
            // for the rest the watch wakes this task when the client's grace is over.
            Phase::Body | Phase::Work => Poll::Pending,
            Phase::Head | Phase::Reply | Phase::Streams | Phase::Linger => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_flush(context))?;
        // HTTP/1 flushes the stream only after everything it had to say went into it.
        if this.vitals.phase() == Phase::Reply {
            this.vitals.enter(Phase::Head, this.watch.now());
            if this.end_of_input {
                // It was kept back, so nothing else would make HTTP read again.
                context.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Closes the sending half, and then reads on for a moment if the client may still be sending:
    /// closing a socket with unread input resets it, and the client would lose its answer.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
            this.is_shut = true;
            if this.end_of_input || !this.vitals.wants_linger() {
                return Poll::Ready(Ok(()));
            }
            this.vitals.enter(Phase::Linger, this.watch.now());
        }
        let mut scratch = [0; 16 << 10];
        while this.lingered_bytes < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut buffer))?;
            match buffer.filled().len() {
                0 => break,
                read => this.lingered_bytes += read,
            }
        }
        Poll::Ready(Ok(()))
    }
}
