//! The other end of a connection: what it sends and takes, and whether it is still there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// How long a client that has closed its side waits before it is asked whether it is still there.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often its answer is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// A client's connection.
#[derive(Debug)]
pub(super) struct Client {
    socket: TcpStream,
    born: Instant,
    /// Milliseconds after `born` when bytes last went either way.
    active: AtomicU64,
    /// Requests whose answers are being made.
    attended: AtomicUsize,
    /// Part of a response has not been taken yet.
    unsent: AtomicBool,
    /// Its place is needed for others.
    pub(super) sent_away: Notify,
}

impl Client {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            born: Instant::now(),
            active: AtomicU64::new(0),
            attended: AtomicUsize::new(0),
            unsent: AtomicBool::new(false),
            sent_away: Notify::new(),
        }
    }

    /// The socket, where nobody else holds it.
    pub(super) fn into_socket(self: Arc<Self>) -> Option<TcpStream> {
        Arc::into_inner(self).map(|client| client.socket)
    }

    /// Whether the answer to a whole request is being made.
    pub(super) fn is_attended(&self) -> bool {
        self.attended.load(Ordering::SeqCst) > 0
    }

    /// How long nothing has gone either way.
    pub(super) fn idle(&self) -> Duration {
        let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(active)
    }

    fn touch(&self) {
        let now = self.born.elapsed().as_millis() as u64;
        self.active.store(now, Ordering::Relaxed);
    }

    /// Waits for an answer to a whole request; nothing when the client has gone before.
    pub(super) async fn attend<T>(
        &self,
        interim: bool,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        struct Attended<'a>(&'a Client);
        impl Drop for Attended<'_> {
            fn drop(&mut self) {
                self.0.touch();
                self.0.attended.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.attended.fetch_add(1, Ordering::SeqCst);
        let _attended = Attended(self);
        tokio::select! {
            answer = answer => Some(answer),
            () = self.gone(interim) => None,
        }
    }

    /// Ends when the client has gone.
    ///
    /// One that has closed its side may be gone, or may still wait for its answer: on the wire
    /// that is the same. After two seconds it is sent an interim response (`100 Continue`, which
    /// every client of HTTP/1.1 reads over); a system whose program has gone answers that with a
    /// reset. Clients of HTTP/1.0 know no interim responses (`interim` is false for them), and
    /// are taken to wait.
    async fn gone(&self, interim: bool) {
        loop {
            match self.socket.peek(&mut [0]).await {
                Ok(0) => break,
                // The next request is here already. Its end is behind it.
                Ok(_) => tokio::time::sleep(LOOK).await,
                Err(_) => return,
            }
            if self.is_broken() {
                return;
            }
        }
        tokio::time::sleep(PATIENCE).await;
        if interim && !self.unsent.load(Ordering::SeqCst) {
            let _ = self.socket.try_write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        while !self.is_broken() {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_broken(&self) -> bool {
        !matches!(self.socket.take_error(), Ok(None))
    }
}

/// A client's bytes, for the HTTP library.
pub(super) struct Bytes(pub(super) Arc<Client>);

impl AsyncRead for Bytes {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let client = &self.0;
        loop {
            ready!(client.socket.poll_read_ready(context))?;
            match client.socket.try_read(into.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(read) => {
                    into.advance(read);
                    client.touch();
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let client = &self.0;
        client.unsent.store(true, Ordering::SeqCst);
        loop {
            ready!(client.socket.poll_write_ready(context))?;
            match client.socket.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(written) => {
                    client.touch();
                    client.unsent.store(written < bytes.len(), Ordering::SeqCst);
                    return Poll::Ready(Ok(written));
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The socket is closed by who has served the connection, after what is on its way.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
