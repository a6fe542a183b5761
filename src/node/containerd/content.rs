//! containerd's content service: blobs by their digests, and those that are still being written.

use super::connection::{Connection, QUICK, SLOW};
use super::error::{CallError, CallErrorKind};
use super::images::Blob;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    AbortRequest, Info, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use prost_types::FieldMask;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// How long one step of a write may take: containerd hashes what an earlier writer left, and syncs.
const STEP: Duration = Duration::from_secs(120);
/// Bytes in one message; containerd takes 16 MB.
pub(crate) const CHUNK: usize = 1024 * 1024;

/// A blob that is being written. It can be left, and found again by its reference.
pub(crate) struct Writer {
    reference: String,
    blob: Blob,
    messages: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    socket: std::sync::Arc<std::path::Path>,
    /// How much of it is there.
    pub offset: u64,
}

/// What there is to write.
pub(crate) enum Opened {
    /// All of it is there, and held by the lease.
    There,
    /// The rest.
    Missing(Box<Writer>),
}

impl Connection {
    /// A small blob as a whole.
    pub(crate) async fn read_content(&self, digest: &str, limit: usize) -> Result<Option<Vec<u8>>, CallError> {
        let request = self.request(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 }, SLOW);
        let mut client = ContentClient::new(self.channel()).max_decoding_message_size(2 * limit);
        let read = async {
            let mut answers = client.read(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(answer) = answers.message().await? {
                bytes.extend_from_slice(&answer.data);
                if bytes.len() > limit {
                    return Err(tonic::Status::out_of_range(format!("it is larger than {limit} bytes")));
                }
            }
            Ok(tonic::Response::new(bytes))
        };
        match self.call(SLOW, || format!("read blob {digest}"), read).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes labels on a blob; the others stay.
    pub(crate) async fn label_content(&self, digest: &str, labels: HashMap<String, String>) -> Result<(), CallError> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.to_owned(), labels, ..Info::default() };
        let update = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
        let mut client = ContentClient::new(self.channel());
        let request = self.request(update, QUICK);
        self.call(QUICK, || format!("label blob {digest}"), client.update(request)).await.map(drop)
    }

    /// Begins or goes on to write a blob, held by a lease.
    pub(crate) async fn open_content(&self, lease: &str, reference: &str, blob: &Blob) -> Result<Opened, CallError> {
        let attempt = || format!("open blob {}", blob.digest);
        let (messages, receiver) = mpsc::channel(2);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: i64::try_from(blob.size).unwrap_or(i64::MAX),
            expected: blob.digest.clone(),
            ..WriteContentRequest::default()
        };
        // It has room: nothing was sent yet.
        let _ = messages.try_send(first);
        // The stream as a whole has no deadline; each of its steps has.
        let request = self.leased_without_end(lease, ReceiverStream::new(receiver));
        let mut client = ContentClient::new(self.channel());
        let open = async {
            let mut answers = client.write(request).await?.into_inner();
            let first = answers.message().await?;
            let first = first.ok_or_else(|| tonic::Status::unavailable("the stream ended"))?;
            Ok(tonic::Response::new((answers, first)))
        };
        match self.call(STEP, attempt, open).await {
            Ok((answers, first)) => Ok(Opened::Missing(Box::new(Writer {
                reference: reference.to_owned(),
                blob: blob.clone(),
                messages,
                answers,
                socket: self.socket().into(),
                offset: u64::try_from(first.offset).unwrap_or(0),
            }))),
            Err(error) if error.kind == CallErrorKind::AlreadyExists => Ok(Opened::There),
            Err(error) => Err(error),
        }
    }

    /// Removes what was written of a blob that is not whole. What is not there is gone.
    pub(crate) async fn abort_content(&self, reference: &str) -> Result<(), CallError> {
        let request = self.request(AbortRequest { r#ref: reference.to_owned() }, QUICK);
        let mut client = ContentClient::new(self.channel());
        match self.call(QUICK, || format!("abort blob {reference}"), client.abort(request)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Writer {
    /// Adds what comes next.
    pub(crate) async fn write(&mut self, data: Vec<u8>) -> Result<(), CallError> {
        let length = data.len() as u64;
        let answer = self.step(WriteAction::Write, data, HashMap::new()).await?;
        self.offset += length;
        if u64::try_from(answer.offset).ok() != Some(self.offset) {
            return Err(self.failed(format!("it has {} bytes where {} were written", answer.offset, self.offset)));
        }
        Ok(())
    }

    /// Begins anew.
    pub(crate) async fn truncate(&mut self) -> Result<(), CallError> {
        if self.offset > 0 {
            self.offset = 0;
            self.step(WriteAction::Write, Vec::new(), HashMap::new()).await?;
        }
        Ok(())
    }

    /// Makes it whole. containerd compares size and digest.
    pub(crate) async fn commit(mut self, labels: HashMap<String, String>) -> Result<(), CallError> {
        match self.step(WriteAction::Commit, Vec::new(), labels).await {
            Err(error) if error.kind != CallErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    async fn step(
        &mut self,
        action: WriteAction,
        data: Vec<u8>,
        labels: HashMap<String, String>,
    ) -> Result<WriteContentResponse, CallError> {
        let message = WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            total: i64::try_from(self.blob.size).unwrap_or(i64::MAX),
            expected: self.blob.digest.clone(),
            offset: i64::try_from(self.offset).unwrap_or(i64::MAX),
            data,
            labels,
        };
        let attempt = format!("write blob {}", self.blob.digest);
        let exchange = async {
            // Where containerd has gone, the stream of its answers says how.
            let _ = self.messages.send(message).await;
            self.answers.message().await
        };
        match tokio::time::timeout(STEP, exchange).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(self.failed("the stream ended".into())),
            Ok(Err(status)) => Err(CallError::from_status(attempt, &self.socket, &status)),
            Err(_) => Err(CallError::deadline(attempt, STEP)),
        }
    }

    fn failed(&self, reason: String) -> CallError {
        CallError { kind: CallErrorKind::Unavailable, attempt: format!("write blob {}", self.blob.digest), reason }
    }
}
