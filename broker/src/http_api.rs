//! Mosquitto's `http_api` on a listener of its own: `/api/v1/version`, `/api/v1/listeners`, `/api/v1/systree`, and the
//! files of `http_directory`.
//!
//! In: connections of such a listener, with TLS or without. Out: text, JSON, files; nothing can be changed here. Who may ask
//! is decided as for clients (`access.rs`), and which file a path means in `files.rs`. Connections, header bytes, time and the
//! size of a file are bounded. No page of another site may read the answers: there is no Access-Control-Allow-Origin. All of
//! a listener's requests have one thread, beside those that serve clients.

mod access;
mod files;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nightjar_certs::Client;
use serde_json::json;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::auth::allows_anonymous;
use crate::auth::backoff::Backoff;
use crate::cli::VERSION;
use crate::clock::Clock;
use crate::listener::{self, Door, Ended, OpenDoor};
use crate::metrics::Metrics;
use crate::settings::{Endpoint, ListenerProtocol, ListenerSettings, Settings};
use crate::shard::Reloaded;
use crate::sys_topics::SysTopics;
use crate::transport::tls::Refused;
use crate::transport::{Peer, Transport};
use access::Guard;

/// What is told, and to whom.
pub struct Api {
    metrics: Arc<Metrics>,
    sys_topics: Arc<SysTopics>,
    /// Those in force: a reload puts others in their place.
    in_force: watch::Receiver<Arc<Reloaded>>,
    guard: Guard,
}

/// One who asks.
struct Asker {
    peer: Peer,
    client: Option<Arc<Client>>,
    listener: Arc<ListenerSettings>,
    in_force: Arc<Reloaded>,
}

impl Api {
    pub fn new(
        metrics: Arc<Metrics>,
        sys_topics: Arc<SysTopics>,
        in_force: watch::Receiver<Arc<Reloaded>>,
        backoff: Arc<Backoff>,
        clock: Clock,
    ) -> Self {
        let threads = in_force.borrow().settings.auth_threads;
        Self {
            metrics,
            sys_topics,
            in_force,
            guard: Guard::new(backoff, clock, threads),
        }
    }
}

/// Accepts and serves on a thread of its own until the sender of `closed` is gone; the socket is closed when this returns.
pub async fn accept(door: Door, api: Arc<Api>, closed: oneshot::Receiver<()>) -> Ended {
    let (told, ended) = oneshot::channel();
    match start(door, api, closed, told) {
        Ok(()) => ended.await.unwrap_or(Ended::ByItself),
        Err(error) => {
            tracing::error!("The thread of http_api cannot be started: {error}.");
            Ended::ByItself
        }
    }
}

fn start(
    door: Door,
    api: Arc<Api>,
    closed: oneshot::Receiver<()>,
    told: oneshot::Sender<Ended>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name("http-api".into())
        .spawn(move || {
            let end = runtime.block_on(async {
                tokio::select! {
                    _ = closed => Ended::Closed,
                    () = accept_all(door, &api) => Ended::ByItself,
                }
            });
            // A file that hangs is left to the end of the process.
            runtime.shutdown_background();
            // Where nobody listens, the broker has stopped.
            let _ = told.send(end);
        })?;
    Ok(())
}

/// Ends only where the socket cannot be used.
async fn accept_all(door: Door, api: &Arc<Api>) {
    let door = match door.open_here() {
        Ok(door) => Arc::new(door),
        Err(error) => {
            tracing::error!("The listening socket of http_api cannot be waited for: {error}");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Who comes while all places are taken waits in the backlog of the socket.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((transport, peer)) = door.accept().await else {
            // No descriptor is left, most likely; clients need them more.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let in_force = Arc::clone(&api.in_force.borrow());
        let Some(listener) = in_force.settings.listener_at(door.endpoint()) else {
            continue;
        };
        let Some(counted) = door.count(listener.connections_max) else {
            let line = format!(
                "Connection from {peer} refused: connections_max of its listener is reached."
            );
            api.guard.say(&peer, line);
            continue;
        };
        let asker = Asker {
            peer,
            client: None,
            listener: Arc::clone(listener),
            in_force,
        };
        let (door, api) = (Arc::clone(&door), Arc::clone(api));
        tokio::spawn(async move {
            let served = serve(transport, asker, &door, api);
            let _ = tokio::time::timeout(CONNECTION_TIME_MAX, served).await;
            drop((place, counted));
        });
    }
}

async fn serve(transport: Transport, mut asker: Asker, door: &OpenDoor, api: Arc<Api>) {
    let secured = listener::tls::secure(transport, door.tls());
    let transport = match secured.await {
        Ok((transport, client)) => {
            asker.client = client.map(Arc::new);
            transport
        }
        Err(Refused::Gone) => return,
        Err(
            Refused::Handshake(reason)
            | Refused::InHandshake(reason)
            | Refused::Certificate(reason),
        ) => {
            let line = format!("Connection from {} rejected: {reason}.", asker.peer);
            api.guard.say(&asker.peer, line);
            return;
        }
    };
    let asker = Arc::new(asker);
    let service = service_fn(move |request| {
        let (api, asker) = (Arc::clone(&api), Arc::clone(&asker));
        async move { Ok::<_, Infallible>(answer(&request, &api, &asker).await) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(transport.into_io()), service)
        .await;
}

async fn answer(request: &Request<Incoming>, api: &Api, asker: &Asker) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return respond(status, TEXT, "Invalid HTTP Method\n");
    }
    let path = request.uri().path();
    let credentials = request.headers().get(AUTHORIZATION);
    if !api.guard.lets_in(asker, credentials, path).await {
        let mut refusal = respond(StatusCode::UNAUTHORIZED, TEXT, "Not authorised\n");
        let challenge = HeaderValue::from_static("Basic realm=\"nightjar\"");
        refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        return refusal;
    }
    match path {
        "/api/v1/version" => respond(StatusCode::OK, TEXT, VERSION),
        "/api/v1/listeners" => respond(StatusCode::OK, JSON, listeners(&asker.in_force.settings)),
        "/api/v1/systree" => {
            let report = api.metrics.report().await;
            let numbers = api.sys_topics.whole_numbers(&report);
            let numbers: serde_json::Map<String, serde_json::Value> = numbers
                .into_iter()
                .map(|(topic, number)| (topic.into(), number.into()))
                .collect();
            respond(StatusCode::OK, JSON, pretty(&numbers.into()))
        }
        path if path.starts_with("/api/") => not_found(),
        path => match asker.listener.http_directory.as_deref() {
            None => not_found(),
            Some(directory) => match files::read(directory, path).await {
                Some((bytes, content_type)) => respond(StatusCode::OK, content_type, bytes),
                None => not_found(),
            },
        },
    }
}

/// With the words of Mosquitto.
fn listeners(settings: &Settings) -> String {
    let of = |listener: &Arc<ListenerSettings>| {
        let protocol = match listener.protocol {
            ListenerProtocol::Mqtt => "mqtt",
            ListenerProtocol::WebSocket => "websockets",
            ListenerProtocol::HttpApi => "httpapi",
        };
        let tls = listener.tls.as_ref();
        let mut told = json!({
            "protocol": protocol,
            "tls": listener.speaks_tls(),
            "mtls": tls.is_some_and(|tls| tls.require_certificate),
            "allow_anonymous": allows_anonymous(settings, listener),
        });
        match listener.endpoints.first() {
            Some(Endpoint::Tcp(address)) => told["port"] = address.port().into(),
            Some(Endpoint::Unix(path)) => told["path"] = path.to_string_lossy().into(),
            None => {}
        }
        told
    };
    let listeners: Vec<_> = settings.listeners.iter().map(of).collect();
    pretty(&json!({ "listeners": listeners }))
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}")
}

fn not_found() -> Response<Full<Bytes>> {
    respond(StatusCode::NOT_FOUND, TEXT, "Not found.\n")
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Of one listening socket, each for one request.
const CONNECTIONS_MAX: usize = 64;
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);
/// hyper takes no less than 8 KiB.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(250);
