//! Connections: how many at a time, for how long, and how they end with the server.
//!
//! HTTP/1.1 and 1.0 alone. The HTTP library can speak HTTP/2 in this build, because another
//! library asks for it, but streams over one connection would slip through the limits below.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::client::{Bytes, Client};

/// Time for a request that is on its way when the server is asked to end.
const ARRIVAL: Duration = Duration::from_millis(200);
/// Time for the rest of a request that has begun to arrive then.
const REST: Duration = Duration::from_millis(800);
/// Time in which a client takes the last bytes of a response.
const LINGER: Duration = Duration::from_secs(2);

/// How many connections are served, and for how long they may keep a place unused.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at a time. One more sends away the one that has been idle longest.
    pub connections: usize,
    /// Time for the head of a request, from the connection's begin or its last response.
    pub idle: Duration,
    /// Time for requests that have begun, when the server ends.
    pub time: Duration,
}

/// Serves until `stop`. Requests that have arrived then are answered, for as long as one may
/// take; connections without one are closed within a second.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stop: impl Future<Output = ()>,
) {
    let open = Arc::new(Open::new(limits));
    let (ending, end) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = stop.as_mut() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => tokio::select! {
                    () = stop.as_mut() => break,
                    place = open.place() => open.serve(socket, place, &router, &end),
                },
                // Files have run out, in this process or the machine.
                Err(_) => {
                    open.send_away();
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    // Who has connected before the stop was asked for is served.
    while let Ok(Ok((socket, _))) = timeout(Duration::from_millis(1), listener.accept()).await {
        let Ok(place) = open.places.clone().try_acquire_owned() else {
            break;
        };
        open.serve(socket, place, &router, &end);
    }
    drop(listener);
    sleep(ARRIVAL).await;
    let _ = ending.send(true);
    let _ = timeout(REST, open.empty()).await;
    open.send_all_away();
    let _ = timeout(limits.time, open.empty()).await;
}

/// The connections that are open.
struct Open {
    limits: ConnectionLimits,
    places: Arc<Semaphore>,
    clients: Mutex<(u64, HashMap<u64, Arc<Client>>)>,
}

impl Open {
    fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            places: Arc::new(Semaphore::new(limits.connections)),
            clients: Mutex::default(),
        }
    }

    fn clients(&self) -> MutexGuard<'_, (u64, HashMap<u64, Arc<Client>>)> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection, if need be that of the one that has been idle longest.
    /// Where all are answered just now, the first that is free.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            self.send_away();
            let place = self.places.clone().acquire_owned();
            // Nobody may have been idle just then.
            if let Ok(Ok(place)) = timeout(Duration::from_millis(100), place).await {
                return place;
            }
        }
    }

    fn send_away(&self) {
        let clients = self.clients();
        let idle = clients.1.values().filter(|client| !client.is_attended());
        if let Some(client) = idle.max_by_key(|client| client.idle()) {
            client.sent_away.notify_one();
        }
    }

    fn send_all_away(&self) {
        let clients = self.clients();
        let idle = clients.1.values().filter(|client| !client.is_attended());
        idle.for_each(|client| client.sent_away.notify_one());
    }

    /// Ends when no connection is left.
    async fn empty(&self) {
        let all = self.limits.connections as u32;
        let _ = self.places.acquire_many(all).await;
    }

    fn serve(
        self: &Arc<Self>,
        socket: TcpStream,
        place: OwnedSemaphorePermit,
        router: &Router,
        end: &watch::Receiver<bool>,
    ) {
        let client = Arc::new(Client::new(socket));
        let number = {
            let mut clients = self.clients();
            clients.0 += 1;
            let number = clients.0;
            clients.1.insert(number, client.clone());
            number
        };
        let router = router.clone().layer(Extension(client.clone()));
        let (open, end) = (self.clone(), end.clone());
        tokio::spawn(async move {
            /// Leaves also when the task ends in a panic.
            struct Leaves(Arc<Open>, u64);
            impl Drop for Leaves {
                fn drop(&mut self) {
                    self.0.clients().1.remove(&self.1);
                }
            }
            let leaves = Leaves(open.clone(), number);
            let whole = converse(&client, router, open.limits.idle, end).await;
            drop(leaves);
            if whole {
                let _ = timeout(LINGER, farewell(client)).await;
            }
            drop(place);
        });
    }
}

/// Answers the requests of a connection, one after the other. True where it ended as HTTP has it.
async fn converse(
    client: &Arc<Client>,
    router: Router,
    idle: Duration,
    mut end: watch::Receiver<bool>,
) -> bool {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        // Who has nothing more to ask still waits for the answer.
        .half_close(true)
        .writev(false)
        .serve_connection(
            TokioIo::new(Bytes(client.clone())),
            TowerToHyperService::new(router),
        );
    let mut connection = pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended.is_ok(),
            () = client.sent_away.notified() => {
                // Its request may just have arrived.
                if !client.is_attended() {
                    return false;
                }
            }
            _ = end.changed(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Closes a connection so that its last response arrives: a socket that is closed while the client
/// still sends (a body that is too long) takes back what has not been read.
async fn farewell(client: Arc<Client>) {
    let Some(mut socket) = client.into_socket() else {
        return;
    };
    let closed = poll_fn(|context| Pin::new(&mut socket).poll_shutdown(context)).await;
    let mut rest = vec![0; 16 << 10];
    while closed.is_ok() && socket.readable().await.is_ok() {
        match socket.try_read(&mut rest) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
