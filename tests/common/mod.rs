//! What tests of the layer share: a browser's cookie jar, a request with a handler of its own, both caches in turn.
use std::{convert::Infallible, future::Future};

use cloakroom::{Cache, Session, SessionLayer};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer, ServiceExt, service_fn};

#[cfg(feature = "redis")]
pub mod redis_server;
pub mod web;

use web::{Reply, send};

/// One test for each function and cache: in memory, and in Redis on a server of its own.
#[allow(unused_macros)]
macro_rules! on_both_caches {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(cloakroom::InMemoryCache::new()).await;
            })*
        }
        #[cfg(feature = "redis")]
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = super::common::redis_server::RedisServer::start();
                super::$name(super::common::redis_server::patient(&server).await).await;
            })*
        }
    };
}

/// One request, answered by a handler that sees all of it and has no body to read.
pub async fn serve<C, F, Fut>(layer: &SessionLayer<C>, request: Request<()>, handler: F) -> Response<String>
where
    C: Cache,
    F: Fn(Request<()>) -> Fut + Clone,
    Fut: Future<Output = Response<String>>,
{
    let service = layer.layer(service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    }));
    service.oneshot(request).await.unwrap()
}

pub fn request(cookie: Option<&str>) -> Request<()> {
    let mut request = Request::get("/");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    request.body(()).unwrap()
}

/// The ID in `name=value`.
pub fn id(cookie: &str) -> &str {
    cookie.split_once('=').unwrap().1.split('.').next().unwrap()
}

pub fn set_cookies(headers: &HeaderMap) -> Vec<String> {
    headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// The attributes of a `Set-Cookie`, sorted, in small letters as far as browsers ignore case.
pub fn attributes(set_cookie: &str) -> Vec<String> {
    let mut attributes: Vec<_> = set_cookie.split(';').skip(1).map(|part| part.trim().to_owned()).collect();
    attributes.sort();
    attributes
}

/// A cookie as a browser keeps it (RFC 6265bis, section 5.7).
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub name: String,
    pub value: String,
    pub domain: String,
    pub host_only: bool,
    pub path: String,
    pub secure: bool,
    pub http_only: bool,
    pub same_site: Option<String>,
    pub partitioned: bool,
    /// Seconds to live; `None`: until the browser is closed.
    pub max_age: Option<i64>,
}

/// The cookies of a browser that looks at one page: takes and refuses, keeps and sends them as RFC 6265bis says
/// (sections 5.6 to 5.8), and the prefixes of layered cookies.
#[derive(Clone, Debug)]
pub struct Browser {
    https: bool,
    host: &'static str,
    path: &'static str,
    pub kept: Vec<Kept>,
}

impl Browser {
    /// At `https://www.example.org/app/page`.
    pub fn new() -> Self {
        Self { https: true, host: "www.example.org", path: "/app/page", kept: Vec::new() }
    }

    pub fn https(mut self, https: bool) -> Self {
        self.https = https;
        self
    }

    /// What the `Cookie` field of the next request says.
    pub fn cookie(&self) -> Option<String> {
        let sent = self.kept.iter().filter(|kept| {
            let host = if kept.host_only { self.host == kept.domain } else { is_below(self.host, &kept.domain) };
            host && (self.https || !kept.secure) && path_matches(self.path, &kept.path)
        });
        let pairs: Vec<_> = sent.map(|kept| format!("{}={}", kept.name, kept.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// A request with the cookies that there are, and what came back kept.
    pub async fn send<C, F, Fut>(&mut self, layer: &SessionLayer<C>, handler: F) -> Reply
    where
        C: Cache,
        F: Fn(Session) -> Fut + Clone,
        Fut: Future<Output = u16>,
    {
        let reply = send(layer, self.cookie().as_deref(), handler).await;
        for value in reply.headers.get_all(header::SET_COOKIE) {
            self.take(value).unwrap();
        }
        reply
    }

    /// Takes a `Set-Cookie` in, or says why it does not.
    pub fn take(&mut self, set_cookie: &HeaderValue) -> Result<(), String> {
        let text = set_cookie.to_str().map_err(|error| error.to_string())?;
        if text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err("a control character".into());
        }
        let (pair, rest) = text.split_once(';').unwrap_or((text, ""));
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
        if name.len() + value.len() > 4096 || (name.is_empty() && value.is_empty()) {
            return Err("too long, or nothing at all".into());
        }
        let mut kept = Kept {
            name,
            value,
            domain: self.host.into(),
            host_only: true,
            path: "/app".into(),
            secure: false,
            http_only: false,
            same_site: None,
            partitioned: false,
            max_age: None,
        };
        let mut explicit_path = None;
        for attribute in rest.split(';') {
            let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            if value.len() > 1024 {
                continue;
            }
            match &*name {
                "path" if value.starts_with('/') => explicit_path = Some(value.to_owned()),
                "domain" if !value.is_empty() => {
                    kept.domain = value.strip_prefix('.').unwrap_or(value).to_ascii_lowercase();
                    kept.host_only = false;
                }
                "secure" => kept.secure = true,
                "httponly" => kept.http_only = true,
                "samesite" => kept.same_site = Some(value.to_ascii_lowercase()),
                "partitioned" => kept.partitioned = true,
                "max-age" => kept.max_age = value.parse().ok().map(|seconds: i64| seconds.min(400 * 86_400)),
                _ => {}
            }
        }
        let has_path = explicit_path.is_some();
        kept.path = explicit_path.unwrap_or(kept.path);
        self.judge(&kept, has_path)?;
        // The same cookie: same name, domain, host-only flag, path, and partition.
        let same = |old: &Kept| {
            (&old.name, &old.domain, old.host_only, &old.path, old.partitioned)
                == (&kept.name, &kept.domain, kept.host_only, &kept.path, kept.partitioned)
        };
        self.kept.retain(|old| !same(old));
        if kept.max_age.is_none_or(|seconds| seconds > 0) {
            self.kept.push(kept);
        }
        Ok(())
    }

    fn judge(&self, kept: &Kept, explicit_path: bool) -> Result<(), String> {
        if !kept.host_only && !is_below(self.host, &kept.domain) {
            return Err(format!("the domain {}", kept.domain));
        }
        if kept.secure && !self.https {
            return Err("`Secure` over plain http".into());
        }
        if kept.same_site.as_deref() == Some("none") && !kept.secure {
            return Err("`SameSite=None` without `Secure`".into());
        }
        if kept.partitioned && !kept.secure {
            return Err("`Partitioned` without `Secure`".into());
        }
        let starts = |prefix: &str| kept.name.to_ascii_lowercase().starts_with(prefix);
        let host = kept.secure && kept.host_only && explicit_path && kept.path == "/";
        let http = kept.secure && kept.http_only;
        let broken = (starts("__secure-") && !kept.secure)
            || (starts("__host-") && !host)
            || (starts("__http-") && !http)
            || (starts("__host-http-") && !http);
        if broken { Err(format!("the prefix of {}", kept.name)) } else { Ok(()) }
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn path_matches(request: &str, cookie: &str) -> bool {
    request == cookie || request.strip_prefix(cookie).is_some_and(|rest| cookie.ends_with('/') || rest.starts_with('/'))
}
