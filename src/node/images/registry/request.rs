//! One request to one address: authorised, redirected, its refusals read.
//!
//! Promises: a password goes to the registry that it is for and to the server of tokens that this
//! one names, over TLS unless the registry itself is spoken to without; neither password nor token
//! goes to where a registry redirects to; no redirection leads from https to http.

use super::challenge::Challenge;
use super::endpoint::{Endpoint, Security};
use super::error::RegistryError;
use super::tokens::{Answer, Proof, Purpose, Tokens};
use gardend_controller::record::ImageCredentials;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use std::time::Duration;

/// Redirections in a row.
const MAX_REDIRECTIONS: usize = 5;
/// What a token, or an error in words, may take.
const MAX_WORDS: usize = 1024 * 1024;
/// Words of a registry's that are repeated.
const MAX_REPEATED: usize = 300;

/// The clients of one set of options.
pub(super) struct Clients {
    pub(super) verifying: Client,
    pub(super) trusting: Client,
    pub(super) tokens: Tokens,
}

impl Clients {
    fn of(&self, security: Security) -> &Client {
        if security == Security::Verified { &self.verifying } else { &self.trusting }
    }
}

/// What is asked for.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) endpoint: &'a Endpoint,
    /// The repository.
    pub(super) name: &'a str,
    /// Below the repository's address.
    pub(super) what: &'a str,
    pub(super) headers: HeaderMap,
    pub(super) credentials: Option<&'a ImageCredentials>,
}

impl Clients {
    /// The answer, which is a good one.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Response, RegistryError> {
        let Question { endpoint, name, .. } = question;
        let host = endpoint.authority.as_str();
        let purpose = self.tokens.purpose(host, name, question.credentials);
        let mut authorization = self.tokens.get(&purpose).and_then(|proof| match proof {
            Proof::Token(token) => bearer(&token),
            Proof::Password => question.credentials.and_then(basic),
        });
        let mut refused = false;
        loop {
            let response = self.send(question, authorization.as_ref()).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return checked(host, response, question.credentials.is_some()).await;
            }
            self.tokens.forget(&purpose);
            // A token may have ended; a fresh one that is refused is a refusal.
            if refused {
                return Err(denied(host, response, question.credentials.is_some()).await);
            }
            let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
            let challenge = Challenge::read(headers.iter().filter_map(|value| value.to_str().ok()));
            authorization = match (challenge, question.credentials) {
                (Some(Challenge::Bearer { realm, service, scope }), _) => {
                    let scope = scope.unwrap_or_else(|| format!("repository:{name}:pull"));
                    let answer = self.token(question, &realm, service.as_deref(), &scope).await?;
                    let authorization = answer.token().and_then(bearer);
                    self.tokens.put(Purpose::clone(&purpose), &answer);
                    authorization
                }
                (Some(Challenge::Basic), Some(credentials)) => {
                    self.tokens.put_password(Purpose::clone(&purpose));
                    basic(credentials)
                }
                _ => None,
            };
            if authorization.is_none() {
                return Err(denied(host, response, question.credentials.is_some()).await);
            }
            refused = true;
        }
    }

    /// Follows redirections.
    async fn send(
        &self,
        question: &Question<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let endpoint = question.endpoint;
        let host = endpoint.authority.as_str();
        let nonsense = |said: String| RegistryError::Nonsense { host: host.to_owned(), said };
        let text = endpoint.url(&format!("/v2/{}/{}", question.name, question.what));
        let mut url = Url::parse(&text).map_err(|error| nonsense(format!("has no address: {error}")))?;
        let origin = url.origin();
        for _ in 0..=MAX_REDIRECTIONS {
            let at_home = url.origin() == origin;
            let client = self.of(if at_home { endpoint.security } else { elsewhere(endpoint.security) });
            let mut request = client.request(question.method.clone(), url.clone()).headers(question.headers.clone());
            if let Some(authorization) = authorization.filter(|_| at_home) {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            let at = url.host_str().unwrap_or(host).to_owned();
            let response = request
                .send()
                .await
                .map_err(|error| RegistryError::of_transport(if at_home { host } else { &at }, &error))?;
            let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !moved {
                return Ok(response);
            }
            let to = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let to = to.and_then(|to| url.join(to).ok()).ok_or_else(|| nonsense("redirects to nowhere".into()))?;
            let to_host = to.host_str().unwrap_or_default();
            if !matches!(to.scheme(), "http" | "https") || to_host.is_empty() {
                return Err(nonsense(format!("redirects to an address of the scheme {:?}", to.scheme())));
            }
            if url.scheme() == "https" && to.scheme() == "http" && endpoint.security == Security::Verified {
                return Err(nonsense(format!("redirects from https to http ({to_host}), where anyone could answer")));
            }
            url = to;
        }
        Err(nonsense(format!("redirects more than {MAX_REDIRECTIONS} times in a row")))
    }

    async fn token(
        &self,
        question: &Question<'_>,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Answer, RegistryError> {
        let endpoint = question.endpoint;
        let nonsense = |said: String| RegistryError::Nonsense { host: endpoint.authority.clone(), said };
        let mut url = Url::parse(realm).map_err(|_| nonsense("names no address to get a token from".into()))?;
        let at = url.host_str().unwrap_or_default().to_owned();
        if url.scheme() != "https" && (endpoint.security == Security::Verified || url.scheme() != "http") {
            return Err(nonsense(format!("wants a token from {at} by {}, where anyone could listen", url.scheme())));
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for scope in scope.split(' ') {
                query.append_pair("scope", scope);
            }
            if let Some(credentials) = question.credentials {
                query.append_pair("account", &credentials.username);
            }
        }
        let mut request = self.of(elsewhere(endpoint.security)).get(url);
        if let Some(authorization) = question.credentials.and_then(basic) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = request.send().await.map_err(|error| RegistryError::of_transport(&at, &error))?;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(denied(&at, response, question.credentials.is_some()).await);
        }
        let response = checked(&at, response, question.credentials.is_some()).await?;
        let body = limited(&at, response, MAX_WORDS, "a token").await?;
        serde_json::from_slice(&body).map_err(|_| nonsense(format!("is given no token by {at}, but something else")))
    }
}

/// How what belongs to a registry and has another address is spoken to, where that is by https: a
/// certificate that was to be overlooked is overlooked there, too; a registry without any said
/// nothing of those of others.
fn elsewhere(security: Security) -> Security {
    match security {
        Security::Verified | Security::Plain => Security::Verified,
        Security::Unverified => Security::Unverified,
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn basic(credentials: &ImageCredentials) -> Option<HeaderValue> {
    use base64::Engine;
    let pair = format!("{}:{}", credentials.username, credentials.password);
    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
    let mut value = HeaderValue::from_str(&format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The response, where it is a good one.
async fn checked(host: &str, response: Response, known: bool) -> Result<Response, RegistryError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let after = after.map(Duration::from_secs);
    let (host, status) = (host.to_owned(), status.as_u16());
    match status {
        403 => Err(denied(&host, response, known).await),
        404 => Err(RegistryError::NotFound {
            said: words(&host, response).await.unwrap_or_else(|| "not found".into()),
            host,
        }),
        408 | 425 | 429 | 500..=599 => {
            let said = words(&host, response).await.unwrap_or_else(|| "nothing more".into());
            Err(RegistryError::Busy { host, status, said, after })
        }
        _ => {
            let said = words(&host, response).await.unwrap_or_else(|| "nothing more".into());
            Err(RegistryError::Nonsense { host, said: format!("answers {status}: {said}") })
        }
    }
}

async fn denied(host: &str, response: Response, known: bool) -> RegistryError {
    let said = words(host, response).await.unwrap_or_else(|| "authentication required".into());
    let remedy = if known {
        "the user name and password do not suffice, or there is no such image"
    } else {
        "give image.username and image.password, or --registry-config, or there is no such image"
    };
    RegistryError::Denied { host: host.to_owned(), said, remedy }
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry says in words, cleaned for a log.
async fn words(host: &str, response: Response) -> Option<String> {
    let body = limited(host, response, MAX_WORDS, "an error").await.ok()?;
    let refusal: Refusal = serde_json::from_slice(&body).ok()?;
    let said: Vec<_> = refusal
        .errors
        .into_iter()
        .map(|reason| {
            let code = reason.code.to_lowercase().replace('_', " ");
            match (code.is_empty(), reason.message.is_empty()) {
                (_, true) => code,
                (true, false) => reason.message,
                (false, false) if reason.message.to_lowercase().contains(&code) => reason.message,
                (false, false) => format!("{code}: {}", reason.message),
            }
        })
        .collect();
    let said: String = said.join("; ").chars().filter(|c| !c.is_control()).take(MAX_REPEATED).collect();
    (!said.is_empty()).then_some(said)
}

/// A body as a whole, of so many bytes at most.
pub(super) async fn limited(
    host: &str,
    mut response: Response,
    limit: usize,
    what: &str,
) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| RegistryError::of_transport(host, &error))? {
        if body.len() + chunk.len() > limit {
            let said = format!("sends {what} of more than {limit} bytes");
            return Err(RegistryError::Nonsense { host: host.to_owned(), said });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
