//! The HTTP listener: `/metrics`, `/metrics/mosquitto`, `/livez` and `/readyz`, and nothing else.
//!
//! In: a socket, the health of the process, and, once there are any, the rooms that count. Out: text. It has a thread of its
//! own, so that it answers while the broker starts and no scrape takes time from a shard. Everything is bounded: connections,
//! header bytes, and the time one connection may take, which holds one request.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

use crate::clock::Clock;
use crate::health::Health;
use crate::metrics::{Metrics, TEXT_FORMAT};
use crate::settings::DEFAULT_HTTP_LISTENER;
use crate::sys_topics::SysTopics;

/// What requests are answered from.
pub struct Pages {
    pub health: Arc<Health>,
    /// Set when there is something to count.
    pub rooms: OnceLock<Rooms>,
    clock: Clock,
}

/// The rooms that count.
pub struct Rooms {
    pub metrics: Arc<Metrics>,
    pub sys_topics: Arc<SysTopics>,
}

/// The thread that serves; dropping it stops it.
pub struct HttpServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Opens the socket that the settings ask for. The default address may be in use, by another broker for example: then there
/// is none. Nobody chose it, so it is no reason not to start.
pub fn bind(address: Option<SocketAddr>) -> Result<Option<TcpListener>, (SocketAddr, io::Error)> {
    let Some(address) = address else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .and_then(|socket| Ok((socket.local_addr()?, socket)));
    match bound {
        Ok((actual, socket)) => {
            tracing::info!("Opening http listen socket on {actual}.");
            Ok(Some(socket))
        }
        Err(error) if address == DEFAULT_HTTP_LISTENER => {
            tracing::warn!(
                "Metrics are not served: {address} cannot be opened ({error}). http_listener chooses another \
                 address, or \"off\"."
            );
            Ok(None)
        }
        Err(error) => Err((address, error)),
    }
}

impl Pages {
    pub fn new(health: Arc<Health>) -> Self {
        Self {
            health,
            rooms: OnceLock::new(),
            clock: Clock::start(),
        }
    }
}

impl HttpServer {
    /// Serves on a thread of its own. To be called when the process is who it will be: a thread keeps what it had.
    pub fn start(socket: TcpListener, pages: Arc<Pages>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("http".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(socket, Arc::clone(&pages)) => {}
                    () = look_at_health(&pages) => {}
                }
            });
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

async fn accept(socket: TcpListener, pages: Arc<Pages>) {
    let socket = match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!("Metrics are not served: {error}.");
            return std::future::pending().await;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            // No descriptor is left, most likely; clients need them more.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            // Whoever takes longer than that is not a scraper.
            let _ = tokio::time::timeout(CONNECTION_TIME_MAX, serve(stream, pages)).await;
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, pages: Arc<Pages>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(&request, &pages).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let is_known = ["/metrics", "/metrics/mosquitto", "/livez", "/readyz"].contains(&path);
    if !is_known {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    }
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let now = pages.clock.now().monotonic;
    match path {
        "/livez" => plain(StatusCode::OK, "ok\n"),
        "/readyz" => match pages.health.why_not_ready(now) {
            None => plain(StatusCode::OK, "ok\n"),
            Some(reason) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {reason}\n"),
            ),
        },
        _ => {
            let Some(rooms) = pages.rooms.get() else {
                return plain(StatusCode::SERVICE_UNAVAILABLE, "the broker starts\n");
            };
            let report = rooms.metrics.report().await;
            let text = match path {
                "/metrics" => report.text(pages.health.commit_pending(now)),
                _ => rooms.sys_topics.text(&report),
            };
            with_type(StatusCode::OK, TEXT_FORMAT, text)
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", text)
}

fn with_type(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Never returns.
async fn look_at_health(pages: &Pages) {
    loop {
        pages.health.look(pages.clock.now().monotonic);
        tokio::time::sleep(LOOK).await;
    }
}

const CONNECTIONS_MAX: usize = 16;
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);
/// hyper takes no less than 8 KiB.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(250);
