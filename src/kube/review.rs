//! Whose a client's token is, and whether they may come in: Kubernetes says both.
//!
//! ```text
//! token ──▶ TokenReview, for our audience ──▶ SubjectAccessReview: may they `use` gardennodes/garden of this node?
//! ```
//! Promises: nobody is let in but whom the API server let in not longer ago than [`KNOWN_FOR`]; while it does
//! not answer nobody new is, and each client is told so within [`DEADLINE`]; it is asked once about a token that
//! many requests bring, and about few tokens at once, whatever strangers send. Of a token only a hash is kept.
//!
//! Leaves to others: where a token stands in what a client says, and how a client is told.

mod cache;

use super::client::{Place, Trouble, trouble};
use super::names::NodeName;
use crate::net::secure::{Verdict, Verifier};
use async_trait::async_trait;
use cache::{Cache, Kept};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long whoever was let in is, without being asked about again: so soon a token or a role is taken back.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// How long whoever was not let in is not: so soon a role that is given counts.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);
/// How long a client waits to be told, both questions and the waiting for a turn together.
const DEADLINE: Duration = Duration::from_secs(5);
/// Tokens that the API server is asked about at once.
const AT_ONCE: usize = 8;

/// See the module.
pub struct Reviewer {
    client: Client,
    node: NodeName,
    audience: String,
    cache: Cache<Verdict>,
    turns: Semaphore,
}

impl Reviewer {
    /// Lets in whose tokens are for this audience, and who may use the place's node.
    pub fn new(place: Place, audience: &str) -> Self {
        Self {
            client: place.client,
            node: place.node,
            audience: audience.to_owned(),
            cache: Cache::default(),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    async fn kept(&self, token: &str) -> Result<Kept<Verdict>, Failed> {
        let _turn = self.turns.acquire().await.map_err(|_| Failed::Late)?;
        let verdict = self.review(token).await?;
        let time = match verdict {
            Verdict::Known(_) => KNOWN_FOR,
            Verdict::Unknown(_) | Verdict::Forbidden(_) => UNKNOWN_FOR,
        };
        Ok(Kept { value: verdict, until: Instant::now() + time })
    }

    async fn review(&self, token: &str) -> Result<Verdict, Failed> {
        let audiences = Some(vec![self.audience.clone()]);
        let spec = TokenReviewSpec { token: token.to_owned(), audiences };
        let review = self.create("tokenreviews", &TokenReview { spec, ..TokenReview::default() }).await?;
        let Some(user) = owner(review.status.unwrap_or_default(), &self.audience) else {
            return Ok(Verdict::Unknown(Some(unknown(&self.audience))));
        };
        let name: Arc<str> = user.username.clone().unwrap_or_default().into();
        let question = SubjectAccessReview { spec: may_use(user, &self.node), ..SubjectAccessReview::default() };
        let answer = self.create("subjectaccessreviews", &question).await?.status.unwrap_or_default();
        Ok(match answer.allowed && answer.denied != Some(true) {
            true => Verdict::Known(name),
            false => Verdict::Forbidden(forbidden(&name, &self.node)),
        })
    }

    async fn create<T>(&self, resource: &'static str, object: &T) -> Result<T, Failed>
    where
        T: Resource<Scope = k8s_openapi::ClusterResourceScope, DynamicType = ()>,
        T: Serialize + DeserializeOwned + Clone + fmt::Debug,
    {
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), object).await;
        answer.map_err(|error| match trouble(&error) {
            Trouble::Refused(why) => Failed::Refused { resource, why },
            other => Failed::Away(other.to_string()),
        })
    }
}

#[async_trait]
impl Verifier for Reviewer {
    async fn verify(&self, token: &str) -> Result<Verdict, String> {
        let entry = self.cache.entry(Sha256::digest(token.as_bytes()).into());
        // One asks, the others wait for what it is told; where it fails, the next one asks. All of it is bounded.
        let found = timeout(DEADLINE, entry.get_or_try_init(|| self.kept(token))).await;
        match found.unwrap_or(Err(Failed::Late)) {
            Ok(kept) => Ok(kept.value.clone()),
            Err(failed) => Err(format!("whose token this is cannot be found out now: {failed}")),
        }
    }
}

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Late,
    #[error("{0}")]
    Away(String),
    #[error("the API server does not let gardend ask ({why}); give its account the verb create on {resource}")]
    Refused { resource: &'static str, why: String },
}

/// Whose token it is, where it is for us. An API server that knows nothing of audiences names none: its word is
/// then about its own tokens, which every pod has.
fn owner(status: TokenReviewStatus, audience: &str) -> Option<UserInfo> {
    let for_us = status.audiences.is_some_and(|audiences| audiences.iter().any(|known| known == audience));
    if status.authenticated == Some(true) && for_us {
        return status.user.filter(|user| user.username.as_ref().is_some_and(|name| !name.is_empty()));
    }
    if let Some(error) = status.error.filter(|error| !error.is_empty()) {
        // For the operator alone: it may tell of the API server's own set-up.
        tracing::info!(%error, "Kubernetes does not take a client's token");
    }
    None
}

fn may_use(user: UserInfo, node: &NodeName) -> SubjectAccessReviewSpec {
    SubjectAccessReviewSpec {
        user: user.username,
        uid: user.uid,
        groups: user.groups,
        extra: user.extra,
        resource_attributes: Some(ResourceAttributes {
            group: Some("gardend.dev".to_owned()),
            resource: Some("gardennodes".to_owned()),
            subresource: Some("garden".to_owned()),
            verb: Some("use".to_owned()),
            name: Some(node.as_str().to_owned()),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    }
}

fn unknown(audience: &str) -> Arc<str> {
    format!(
        "Kubernetes does not take it for one for the audience '{audience}'; it may have run out, or its account be \
         gone: `kubectl create token ACCOUNT --audience {audience}` makes one"
    )
    .into()
}

fn forbidden(name: &str, node: &NodeName) -> Arc<str> {
    format!(
        "{name} may not use this node's Garden; a role with the verb use on gardennodes/garden of gardend.dev, for all \
         or for the name {}, would allow it",
        node.as_str()
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(audiences: Option<&[&str]>) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: audiences.map(|all| all.iter().map(ToString::to_string).collect()),
            user: Some(UserInfo { username: Some("u".to_owned()), ..UserInfo::default() }),
            error: None,
        }
    }

    #[test]
    fn a_token_is_ours_only_where_the_api_server_says_for_whom_it_is() {
        assert!(owner(status(Some(&["other", "gardend"])), "gardend").is_some());
        assert!(owner(status(Some(&["other"])), "gardend").is_none());
        assert!(owner(status(Some(&[])), "gardend").is_none());
        assert!(owner(status(None), "gardend").is_none());
    }

    #[test]
    fn who_is_not_authenticated_or_has_no_name_is_nobody() {
        let not = TokenReviewStatus { authenticated: Some(false), ..status(Some(&["gardend"])) };
        assert!(owner(not, "gardend").is_none());
        let silent = TokenReviewStatus { authenticated: None, ..status(Some(&["gardend"])) };
        assert!(owner(silent, "gardend").is_none());
        let nameless = TokenReviewStatus {
            user: Some(UserInfo { username: Some(String::new()), ..UserInfo::default() }),
            ..status(Some(&["gardend"]))
        };
        assert!(owner(nameless, "gardend").is_none());
    }

    #[test]
    fn the_question_names_the_node_and_all_that_is_known_of_the_owner() {
        let user = UserInfo {
            username: Some("u".to_owned()),
            uid: Some("1".to_owned()),
            groups: Some(vec!["g".to_owned()]),
            extra: Some([("k".to_owned(), vec!["v".to_owned()])].into()),
        };
        let asked = may_use(user.clone(), &"n1".parse().unwrap());
        assert_eq!(
            (asked.user, asked.uid, asked.groups, asked.extra),
            (user.username, user.uid, user.groups, user.extra)
        );
        let about = asked.resource_attributes.unwrap();
        assert_eq!((about.verb.as_deref(), about.name.as_deref()), (Some("use"), Some("n1")));
    }
}
