//! The endpoint that the layer answers itself: a browser registers a key there, and proves that it still has it.
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    fields,
    proof::{Proof, ProofError},
    settings::CheckedDeviceBound,
};
use crate::{
    deadline::{Deadline, timed_out},
    engine::SessionEngine,
    error::SessionError,
    events,
    id::{SessionId, SessionKey},
    record::{Binding, BoundCookie, CHALLENGE_LIFE, Challenge, Head, Proven, PublicKey},
};

/// One request to the endpoint.
pub(crate) struct Call {
    engine: Arc<dyn SessionEngine>,
    settings: Arc<CheckedDeviceBound>,
    /// From the session cookie, which a request that another site caused does not carry.
    ids: Vec<SessionId>,
    ask: Ask,
}

enum Ask {
    Register {
        proof: Vec<u8>,
    },
    /// Without a proof the browser asks for a challenge.
    Refresh {
        name: Name,
        proof: Option<Vec<u8>>,
    },
    /// The browser names a session of which this layer knows nothing.
    Unknown,
    /// No browser sends this.
    Refuse(StatusCode, &'static str),
}

/// The browser's name for a session: its first key, and the handle of the binding.
struct Name {
    text: String,
    key: SessionKey,
}

/// What the browser is told.
#[derive(Debug)]
pub(crate) struct EndpointResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: String,
}

impl Name {
    fn new(key: SessionKey, handle: &SessionId) -> Self {
        Self { text: format!("{}.{}", key.as_str(), handle.as_ref()), key }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let (key, handle) = text.split_once('.')?;
        SessionId::parse(handle.as_bytes())?;
        Some(Self { text: text.to_owned(), key: key.parse().ok()? })
    }

    fn handle(&self) -> &str {
        self.text.rsplit('.').next().unwrap_or_default()
    }
}

impl Ask {
    fn read(method: &Method, headers: &HeaderMap) -> Self {
        if method != Method::POST {
            return Self::Refuse(StatusCode::METHOD_NOT_ALLOWED, "the method is not POST");
        }
        let malformed = Self::Refuse(StatusCode::BAD_REQUEST, "a header field is malformed");
        let Ok(proof) = fields::read(headers, &fields::RESPONSE) else { return malformed };
        let proof = proof.map(<[u8]>::to_vec);
        match (fields::read(headers, &fields::SESSION_ID), proof) {
            (Err(()), _) => malformed,
            (Ok(Some(name)), proof) => Name::parse(name).map_or(Self::Unknown, |name| Self::Refresh { name, proof }),
            (Ok(None), Some(proof)) => Self::Register { proof },
            (Ok(None), None) => {
                Self::Refuse(StatusCode::BAD_REQUEST, "there is neither a proof nor a session identifier")
            }
        }
    }
}

/// What became of a refresh.
enum Refreshed {
    Done,
    Stale,
    Refused(ProofError),
    /// It is another session by now, or none.
    Ended,
}

impl Call {
    pub(crate) fn new(
        engine: Arc<dyn SessionEngine>,
        settings: Arc<CheckedDeviceBound>,
        ids: Vec<SessionId>,
        method: &Method,
        headers: &HeaderMap,
    ) -> Self {
        Self { engine, settings, ids, ask: Ask::read(method, headers) }
    }

    pub(crate) async fn answer(self) -> Result<EndpointResponse, SessionError> {
        let deadline = Deadline::after(self.engine.config().deadline);
        let answer = async {
            match &self.ask {
                Ask::Register { proof } => self.register(proof, deadline).await,
                Ask::Refresh { name, proof } => self.refresh(name, proof.as_deref(), deadline).await,
                Ask::Unknown => Ok(ended()),
                Ask::Refuse(status, reason) => Ok(refuse(*status, reason)),
            }
        };
        deadline.bound(answer).await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn register(&self, jwt: &[u8], deadline: Deadline) -> Result<EndpointResponse, SessionError> {
        let proof = Proof::parse(jwt).and_then(|proof| proof.verify_own().cloned().map(|key| (proof, key)));
        let (proof, key) = match proof {
            Ok(verified) => verified,
            Err(refused) => return Ok(refuse(StatusCode::BAD_REQUEST, refused.reason())),
        };
        let Some(session) = self.session_of_cookie().await? else {
            return Ok(refuse(StatusCode::FORBIDDEN, "there is no session to register for"));
        };
        let (value, handle) = (self.random()?, self.random()?);
        let mut is_done = false;
        let mut decide = |head: &Head| {
            let registered = self.registered(head, &proof.challenge, &key, &handle, &value);
            is_done = registered.is_some();
            registered
        };
        let found = self.engine.bind(session, deadline, &mut decide).await?;
        if !found || !is_done {
            return Ok(refuse(StatusCode::FORBIDDEN, "the challenge was not offered to this session, or is too old"));
        }
        events::device_bound(&session);
        Ok(self.granted(&Name::new(session, &handle), &value))
    }

    fn registered(
        &self,
        head: &Head,
        challenge: &str,
        key: &PublicKey,
        handle: &SessionId,
        value: &SessionId,
    ) -> Option<Binding> {
        head.binding()?.registered(challenge, handle.as_ref(), key.clone(), self.cookie(value), self.now())
    }

    async fn refresh(
        &self,
        name: &Name,
        jwt: Option<&[u8]>,
        deadline: Deadline,
    ) -> Result<EndpointResponse, SessionError> {
        let proof = match jwt.map(Proof::parse).transpose() {
            Ok(proof) => proof,
            Err(refused) => return Ok(refuse(StatusCode::BAD_REQUEST, refused.reason())),
        };
        let (value, challenge) = (self.random()?, self.random()?);
        let mut outcome = Refreshed::Ended;
        let mut decide = |head: &Head| {
            let binding = head.binding();
            let Some((binding, key)) = binding.and_then(|binding| Some((binding, binding.key_of(name.handle())?)))
            else {
                outcome = Refreshed::Ended;
                return None;
            };
            let proven = match &proof {
                None => Ok(Proven::Stale),
                Some(proof) => {
                    let proven = |()| binding.proven(&proof.challenge, self.cookie(&value), self.now());
                    proof.verify(key).map(proven)
                }
            };
            match proven {
                Ok(Proven::Done(binding)) => {
                    outcome = Refreshed::Done;
                    Some(binding)
                }
                Ok(Proven::Stale) => {
                    outcome = Refreshed::Stale;
                    let until = self.now().saturating_add(CHALLENGE_LIFE);
                    Some(binding.challenged(Challenge { text: challenge.as_ref().into(), until }, self.now()))
                }
                Err(refused) => {
                    outcome = Refreshed::Refused(refused);
                    None
                }
            }
        };
        let mut found = false;
        // A cookie that leads to a session decides; without one the session is looked up by the name.
        if let Some(session) = self.session_of_cookie().await? {
            found = self.engine.bind(session, deadline, &mut decide).await?;
        }
        if !found {
            found = self.engine.bind(name.key, deadline, &mut decide).await?;
        }
        Ok(match outcome {
            Refreshed::Done if found => self.granted(name, &value),
            Refreshed::Stale if found => {
                let field = fields::challenge(challenge.as_ref(), &name.text);
                let headers = field.map(|field| (fields::CHALLENGE, field)).into_iter().collect();
                EndpointResponse::new(StatusCode::FORBIDDEN, headers, String::new())
            }
            Refreshed::Refused(refused) if found => refuse(StatusCode::BAD_REQUEST, refused.reason()),
            _ => ended(),
        })
    }

    /// The key that the session cookie leads to.
    async fn session_of_cookie(&self) -> Result<Option<SessionKey>, SessionError> {
        match self.ids.as_slice() {
            [] => Ok(None),
            // Whether it leads to a session is found out when that is changed.
            [id] => Ok(Some(id.key())),
            ids => Ok(self.engine.load(ids, None).await?.session.map(|(_, stored)| stored.key)),
        }
    }

    fn granted(&self, name: &Name, value: &SessionId) -> EndpointResponse {
        let headers = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::SET_COOKIE, self.settings.issue(value)),
        ];
        EndpointResponse::new(StatusCode::OK, headers, self.settings.instructions(&name.text))
    }

    fn cookie(&self, value: &SessionId) -> BoundCookie {
        let lifetime = u64::try_from(self.settings.lifetime.as_millis()).unwrap_or(u64::MAX);
        BoundCookie(value.key(), self.now().saturating_add(lifetime))
    }

    /// 192 random bits: a bound cookie, a challenge, or the handle of a binding.
    fn random(&self) -> Result<SessionId, SessionError> {
        SessionId::generate(self.engine.config().random)
    }

    fn now(&self) -> u64 {
        self.engine.config().clock.now_ms()
    }
}

impl EndpointResponse {
    /// As the draft recommends it, no page can embed the answer (DBSC, "Server considerations").
    fn new(status: StatusCode, mut headers: Vec<(HeaderName, HeaderValue)>, body: String) -> Self {
        headers.extend([
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
            (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        ]);
        Self { status, headers, body }
    }

    /// Has the browser ask again without its bound cookie, which does not count: it refreshes before that.
    pub(crate) fn again(location: HeaderValue, removal: HeaderValue) -> Self {
        let headers = vec![(header::LOCATION, location), (header::SET_COOKIE, removal)];
        Self::new(StatusCode::TEMPORARY_REDIRECT, headers, String::new())
    }
}

/// The browser forgets its key.
fn ended() -> EndpointResponse {
    let json = HeaderValue::from_static("application/json");
    EndpointResponse::new(StatusCode::OK, vec![(header::CONTENT_TYPE, json)], "{\"continue\":false}".to_owned())
}

fn refuse(status: StatusCode, reason: &'static str) -> EndpointResponse {
    events::device_refused(reason);
    let allow = (status == StatusCode::METHOD_NOT_ALLOWED).then(|| (header::ALLOW, HeaderValue::from_static("POST")));
    EndpointResponse::new(status, allow.into_iter().collect(), String::new())
}

/// A name that is read is the one that was written.
#[cfg(fuzzing)]
pub(super) fn fuzz(headers: &HeaderMap) {
    if let Ask::Refresh { name, .. } = Ask::read(&Method::POST, headers) {
        assert_eq!(name.text, format!("{}.{}", name.key.as_str(), name.handle()));
        assert_eq!(name.handle().len(), crate::id::ID_CHARS);
    }
}
