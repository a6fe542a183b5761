//! Calls about images: gardend's own, below `/gardend/v1`, which no path of Garden's begins with.
//!
//! A pull's answer is lines of JSON: how far it is, at least once a second, and at the end what came
//! of it. What fails at once is an ordinary error. A client that goes away leaves the pull to
//! others who wait for it.

use crate::garden::Garden;
use crate::garden::answer::{Answer, Json, Refusal, json_line};
use crate::garden::body::read_json;
use crate::garden::wire::{self, GardenError, ImageRef, Images, Prune, PullLine, PulledImage};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use gardend_controller::Error;
use gardend_controller::ports::Pulled;
use gardend_controller::record::ImageReference;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

/// From one line of a pull to the next, also where nothing has changed: a client that has gone away
/// is noticed when it is written to.
const LINE: Duration = Duration::from_millis(500);

pub(crate) async fn list(State(garden): State<Garden>) -> Answer<Images> {
    Ok(Json(garden.controller.images().await?.into_iter().collect()))
}

pub(crate) async fn prune(State(garden): State<Garden>, body: Body) -> Answer<Images> {
    let prune: Prune = read_json(body, "{\"all\":false,\"dry_run\":false}").await?;
    let which = prune.which();
    let images = match prune.dry_run {
        true => garden.controller.prunable_images(which).await?,
        false => garden.controller.prune_images(which).await?,
    };
    Ok(Json(images.into_iter().collect()))
}

pub(crate) async fn pull(State(garden): State<Garden>, body: Body) -> Result<Response, Refusal> {
    let asked: ImageRef = read_json(body, "an image, as in {\"uri\":\"docker:///busybox\"}").await?;
    let (reference, credentials) = wire::pull(&asked)?;
    let work = {
        let (controller, reference) = (garden.controller.clone(), reference.clone());
        Box::pin(async move { controller.pull_image(&reference, credentials.as_ref()).await })
    };
    let mut pull = Pull { garden, reference, work, outcome: None, told: true };
    pull.wait().await;
    if let Some(Err(error)) = pull.outcome {
        return Err(error.into());
    }
    let lines = unfold(Some(pull), |pull| async { Some(pull?.line().await) });
    let lines = futures_util::StreamExt::map(lines, Ok::<Bytes, Infallible>);
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// A pull that a client waits for. Dropped, it is given up.
struct Pull {
    garden: Garden,
    reference: ImageReference,
    work: Pin<Box<dyn Future<Output = Result<Pulled, Error>> + Send>>,
    outcome: Option<Result<Pulled, Error>>,
    /// Whether all has been told that was waited for.
    told: bool,
}

impl Pull {
    /// For its end, or for as long as a line may take.
    async fn wait(&mut self) {
        self.told = false;
        tokio::select! {
            biased;
            outcome = &mut self.work => self.outcome = Some(outcome),
            () = tokio::time::sleep(LINE) => {}
        }
    }

    /// What is to be told now, and what comes after it.
    async fn line(mut self) -> (Bytes, Option<Self>) {
        if self.told {
            self.wait().await;
        }
        self.told = true;
        let line = match &self.outcome {
            None => PullLine::Progress(self.garden.controller.pulling(&self.reference).map(Into::into)),
            Some(Ok(pulled)) => PullLine::Pulled(PulledImage::new(&self.reference, pulled)),
            Some(Err(error)) => PullLine::Error(GardenError::from(error)),
        };
        (json_line(&line).into(), self.outcome.is_none().then_some(self))
    }
}
