//! containerd's version service.

use super::connection::{Connection, QUICK};
use super::error::CallError;
use containerd_client::services::v1::version_client::VersionClient;

impl Connection {
    /// The version that containerd names itself, such as `1.6.20~ds1` or `v2.4.2`.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn version(&self) -> Result<String, CallError> {
        let mut client = VersionClient::new(self.channel());
        let request = self.request((), QUICK);
        let answer = self.call(QUICK, || "tell its version".into(), client.version(request)).await?;
        Ok(answer.version)
    }
}
