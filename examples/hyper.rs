//! The counter without axum: hyper speaking HTTP/1.1 and HTTP/2, and tower's `ServiceBuilder`.
//!
//! ```sh
//! cargo run --example hyper          # PORT=4000 for another port than 3000
//! curl -b jar -c jar http://localhost:3000/
//! curl -b jar -c jar --http2-prior-knowledge http://localhost:3000/
//! ```
use std::{convert::Infallible, env, error::Error, io};

use bytes::Bytes;
use cloakroom::{InMemoryCache, LazySession, SessionError, SessionLayer, SessionStore};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};

/// The answer to any request: the session is in its extensions.
async fn handle<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match answer(&request).await {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (error.status(), format!("{error}\n")),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

async fn answer<B>(request: &Request<B>) -> Result<String, SessionError> {
    let session = request.extensions().get::<LazySession>().ok_or(SessionError::MissingLayer)?.load().await?;
    if request.uri().path() == "/peek" {
        let visits: u64 = session.get("visits").unwrap_or(0);
        return Ok(format!("visits so far: {visits}\n"));
    }
    let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
    Ok(format!("visits: {visits}\n"))
}

/// Serves until the listener fails.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    // `lazy`: the session is loaded when the handler asks for it.
    let sessions = SessionLayer::builder(SessionStore::new(InMemoryCache::new())).lazy(true).build();
    let service = ServiceBuilder::new().layer(sessions.map_err(io::Error::other)?).service(service_fn(handle));
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // Tells HTTP/1.1 from HTTP/2 by the first bytes.
            if let Err(error) = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
            {
                eprintln!("connection: {error}");
            }
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    let url = format!("http://localhost:{}", listener.local_addr()?.port());
    println!("Listening on {url} for HTTP/1.1 and HTTP/2:");
    println!();
    println!("  curl -b jar -c jar {url}/");
    println!("  curl -b jar -c jar --http2-prior-knowledge {url}/");
    serve(listener).await?;
    Ok(())
}
