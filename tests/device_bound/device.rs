//! A browser in software: cookies, a key pair, and the exchange of the draft.
use std::{collections::BTreeMap, sync::Mutex};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cloakroom::Cache;
use http::{Method, Request, Response, header};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::Value;

use super::app::{App, PATH};

/// Browsers give up after so many challenges.
const MAX_CHALLENGES: usize = 5;

pub(crate) struct Device {
    key: EcdsaKeyPair,
    pub(crate) jar: Mutex<BTreeMap<String, String>>,
    /// The browser's name for its bound session.
    pub(crate) name: Mutex<Option<String>>,
}

/// What came of a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refreshed {
    Done,
    /// The browser forgets its key.
    Ended,
    /// The browser keeps its key, and tries again later.
    Failed(u16),
}

impl Device {
    pub(crate) fn new() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Self { key, jar: Mutex::default(), name: Mutex::default() }
    }

    /// Another client with the cookies of this one, and without its key.
    pub(crate) fn thief(&self) -> Self {
        let thief = Self::new();
        *thief.jar.lock().unwrap() = self.jar.lock().unwrap().clone();
        *thief.name.lock().unwrap() = self.name.lock().unwrap().clone();
        thief
    }

    pub(crate) fn name(&self) -> String {
        self.name.lock().unwrap().clone().expect("a bound session")
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        self.jar.lock().unwrap().get(name).cloned()
    }

    pub(crate) fn drop_cookie(&self, name: &str) {
        self.jar.lock().unwrap().remove(name);
    }

    fn sign(&self, header: &str, challenge: &str) -> String {
        let claims = format!("{{\"jti\":\"{challenge}\"}}");
        let text = [header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(crate) fn registration(&self, challenge: &str) -> String {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        self.sign(&format!(r#"{{"alg":"ES256","jwk":{jwk},"typ":"dbsc+jwt"}}"#), challenge)
    }

    pub(crate) fn proof(&self, challenge: &str) -> String {
        self.sign(r#"{"alg":"ES256","typ":"dbsc+jwt"}"#, challenge)
    }

    /// One request with the cookies of the jar, which takes in those of the response.
    pub(crate) async fn send<C: Cache + Clone>(
        &self,
        app: &App<C>,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Response<String> {
        let mut request = Request::builder().method(method).uri(path);
        let cookies: Vec<_> = self.jar.lock().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let response = app.send(request.body(()).unwrap()).await;
        self.take_cookies(&response);
        response
    }

    fn take_cookies(&self, response: &Response<String>) {
        for field in response.headers().get_all(header::SET_COOKIE) {
            let field = field.to_str().unwrap();
            let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
            let mut jar = self.jar.lock().unwrap();
            if field.contains("; Max-Age=0") {
                jar.remove(name);
            } else {
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// Follows a redirect, without a refresh before it.
    pub(crate) async fn get<C: Cache + Clone>(&self, app: &App<C>, path: &str) -> Response<String> {
        let response = self.send(app, Method::GET, path, &[]).await;
        if response.status() != 307 {
            return response;
        }
        assert_eq!(response.headers()[header::LOCATION], format!(".{path}"));
        self.send(app, Method::GET, path, &[]).await
    }

    /// Opens a page.
    pub(crate) async fn open<C: Cache + Clone>(&self, app: &App<C>, path: &str) -> Response<String> {
        self.send(app, Method::GET, path, &[("sec-fetch-mode", "navigate")]).await
    }

    /// What the page says, of a request that a script of a page makes.
    pub(crate) async fn page<C: Cache + Clone>(&self, app: &App<C>) -> String {
        self.get(app, "/page").await.into_body()
    }

    /// Logs in, and returns the challenge that the response offers.
    pub(crate) async fn log_in<C: Cache + Clone>(&self, app: &App<C>) -> String {
        let response = self.get(app, "/log-in").await;
        assert_eq!(response.status(), 200);
        let offer = response.headers()["secure-session-registration"].to_str().unwrap();
        let start = format!("(ES256 RS256);path=\"{PATH}\";challenge=\"");
        offer.strip_prefix(&start).and_then(|rest| rest.strip_suffix('"')).expect("an offer").to_owned()
    }

    pub(crate) async fn send_registration<C: Cache + Clone>(&self, app: &App<C>, proof: &str) -> Response<String> {
        self.send(app, Method::POST, PATH, &[("secure-session-response", proof)]).await
    }

    pub(crate) async fn register<C: Cache + Clone>(&self, app: &App<C>, challenge: &str) {
        let response = self.send_registration(app, &self.registration(challenge)).await;
        assert_eq!(response.status(), 200);
        self.take_instructions(response.body());
    }

    fn take_instructions(&self, body: &str) {
        let instructions: Value = serde_json::from_str(body).unwrap();
        let name = instructions["session_identifier"].as_str().unwrap();
        *self.name.lock().unwrap() = Some(name.to_owned());
    }

    /// Logs in and registers, and lets the time pass in which a bound cookie is not needed.
    pub(crate) async fn bind<C: Cache + Clone>(&self, app: &App<C>) {
        let challenge = self.log_in(app).await;
        self.register(app, &challenge).await;
        app.clock.advance(super::app::MINUTE);
        assert_eq!(self.page(app).await, "alice bound 0");
    }

    pub(crate) async fn send_refresh<C: Cache + Clone>(&self, app: &App<C>, proof: Option<&str>) -> Response<String> {
        let name = self.name();
        let mut fields = vec![("sec-secure-session-id", name.as_str())];
        fields.extend(proof.map(|proof| ("secure-session-response", proof)));
        self.send(app, Method::POST, PATH, &fields).await
    }

    /// The challenge of a 403, for this session.
    pub(crate) fn challenge(&self, response: &Response<String>) -> String {
        assert_eq!(response.status(), 403);
        let field = response.headers()["secure-session-challenge"].to_str().unwrap();
        let end = format!("\";id=\"{}\"", self.name());
        field.strip_prefix('"').and_then(|rest| rest.strip_suffix(&end)).expect("a challenge").to_owned()
    }

    /// Asks for a challenge.
    pub(crate) async fn ask<C: Cache + Clone>(&self, app: &App<C>) -> String {
        let response = self.send_refresh(app, None).await;
        self.challenge(&response)
    }

    /// As a browser does it (DBSC, "Send request").
    pub(crate) async fn refresh<C: Cache + Clone>(&self, app: &App<C>) -> Refreshed {
        self.refresh_at(&[app, app]).await
    }

    /// The requests of a refresh go to these processes in turn.
    pub(crate) async fn refresh_at<C: Cache + Clone>(&self, apps: &[&App<C>]) -> Refreshed {
        let mut proof = None;
        for app in apps.iter().cycle().take(MAX_CHALLENGES) {
            let response = self.send_refresh(app, proof.as_deref()).await;
            match response.status().as_u16() {
                200 if response.body().contains("\"continue\":false") => return Refreshed::Ended,
                200 => {
                    self.take_instructions(response.body());
                    return Refreshed::Done;
                }
                403 => proof = Some(self.proof(&self.challenge(&response))),
                status if status < 500 => return Refreshed::Ended,
                status => return Refreshed::Failed(status),
            }
        }
        Refreshed::Failed(403)
    }
}
