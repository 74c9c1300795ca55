//! What device-bound sessions add to a request, and what a registration and a refresh take, in memory.
//!
//!     cargo bench --bench device_bound --features device-bound,testing
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cloakroom::{DeviceBound, DeviceBoundResponse, InMemoryCache, Session, SessionLayer, SessionStore, benching};
use divan::{Bencher, black_box};
use http::{Request, Response};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use tower::{Layer, Service};

const PATH: &str = "/device";
const ES256: &[u8] = include_bytes!("../fuzz/seeds/device_bound/registration");
const RS256: &[u8] = include_bytes!("../fuzz/seeds/device_bound/rsa-registration");

fn main() {
    divan::main();
}

#[derive(Clone)]
struct Handler;

impl Service<Request<()>> for Handler {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let session = request.extensions().get::<Session>().unwrap();
        if request.uri().path() == "/log-in" {
            session.log_in("alice").unwrap();
        }
        black_box(session.owner());
        ready(Ok(Response::new(String::new())))
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("it never waits"),
    }
}

/// A visitor who is logged in.
struct Visitor {
    layer: SessionLayer<InMemoryCache, DeviceBoundResponse>,
    store: SessionStore<InMemoryCache>,
    key: EcdsaKeyPair,
    random: SystemRandom,
    cookies: String,
    name: String,
}

impl Visitor {
    fn unbound() -> (Self, String) {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        let store = SessionStore::new(InMemoryCache::new());
        let layer = SessionLayer::builder(store.clone()).device_bound(DeviceBound::new(PATH)).build().unwrap();
        let mut visitor = Self { layer, store, key, random, cookies: String::new(), name: String::new() };
        let response = visitor.send(Request::get("/log-in").body(()).unwrap());
        let challenge = response.headers()["secure-session-registration"].to_str().unwrap();
        let challenge = challenge.rsplit('"').nth(1).unwrap().to_owned();
        visitor.cookies = cookie(&response);
        (visitor, challenge)
    }

    fn bound() -> Self {
        let (mut visitor, challenge) = Self::unbound();
        let (x, y) = visitor.key.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let proof = visitor.sign(&format!(r#"{{"alg":"ES256","jwk":{jwk},"typ":"dbsc+jwt"}}"#), &challenge);
        let request = Request::post(PATH).header("cookie", &visitor.cookies).header("secure-session-response", proof);
        let response = visitor.send(request.body(()).unwrap());
        let told: serde_json::Value = serde_json::from_str(response.body()).unwrap();
        visitor.name = told["session_identifier"].as_str().unwrap().to_owned();
        visitor.cookies = format!("{}; {}", visitor.cookies, cookie(&response));
        visitor
    }

    fn sign(&self, header: &str, challenge: &str) -> String {
        let claims = format!("{{\"jti\":\"{challenge}\"}}");
        let text = [header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(&self.random, text.as_bytes()).unwrap()))
    }

    fn send(&self, request: Request<()>) -> Response<String> {
        now(self.layer.layer(Handler).call(request)).unwrap()
    }

    fn page(&self) -> Request<()> {
        Request::get("/").header("cookie", &self.cookies).body(()).unwrap()
    }

    fn refresh(&self, proof: Option<&str>) -> Request<()> {
        let mut request =
            Request::post(PATH).header("cookie", &self.cookies).header("sec-secure-session-id", &self.name);
        if let Some(proof) = proof {
            request = request.header("secure-session-response", proof);
        }
        request.body(()).unwrap()
    }

    fn challenge(&self) -> String {
        let response = self.send(self.refresh(None));
        let challenge = response.headers()["secure-session-challenge"].to_str().unwrap();
        challenge.split('"').nth(1).unwrap().to_owned()
    }
}

fn cookie(response: &Response<String>) -> String {
    response.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

#[divan::bench]
fn request_without_the_setting(bencher: Bencher<'_, '_>) {
    let (visitor, _) = Visitor::unbound();
    let layer = SessionLayer::new(visitor.store.clone());
    let send = |request| now(layer.layer(Handler).call(request)).unwrap();
    bencher.with_inputs(|| visitor.page()).bench_values(send);
}

#[divan::bench]
fn request_unbound(bencher: Bencher<'_, '_>) {
    let (visitor, _) = Visitor::unbound();
    bencher.with_inputs(|| visitor.page()).bench_values(|request| visitor.send(request));
}

#[divan::bench]
fn request_bound(bencher: Bencher<'_, '_>) {
    let visitor = Visitor::bound();
    bencher.with_inputs(|| visitor.page()).bench_values(|request| visitor.send(request));
}

#[divan::bench]
fn refresh_challenge(bencher: Bencher<'_, '_>) {
    let visitor = Visitor::bound();
    bencher.with_inputs(|| visitor.refresh(None)).bench_values(|request| visitor.send(request));
}

#[divan::bench]
fn refresh_proof(bencher: Bencher<'_, '_>) {
    let visitor = Visitor::bound();
    let request = || {
        let proof = visitor.sign(r#"{"alg":"ES256","typ":"dbsc+jwt"}"#, &visitor.challenge());
        visitor.refresh(Some(&proof))
    };
    let send = |request| {
        let response = visitor.send(request);
        assert_eq!(response.status(), 200);
        response
    };
    bencher.with_inputs(request).bench_values(send);
}

fn verify(bencher: Bencher<'_, '_>, jwt: &[u8]) {
    let jwt = jwt.trim_ascii();
    assert!(benching::verifies_registration(jwt));
    bencher.bench(|| benching::verifies_registration(black_box(jwt)));
}

#[divan::bench]
fn verify_es256(bencher: Bencher<'_, '_>) {
    verify(bencher, ES256);
}

#[divan::bench]
fn verify_rs256(bencher: Bencher<'_, '_>) {
    verify(bencher, RS256);
}
