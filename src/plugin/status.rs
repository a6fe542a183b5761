//! How a command in a pod ended, as the Status says that comes last.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this status.
    Exited(i32),
    /// It was not run, or nobody can say how it ended.
    Failed(String),
}

/// Reads a Status.
///
/// # Errors
/// In words: this is none.
pub(super) fn ended(json: &[u8]) -> Result<Ended, String> {
    let status: Status =
        serde_json::from_slice(json).map_err(|error| format!("the server's status is none: {error}"))?;
    if status.status.as_deref() == Some("Success") {
        return Ok(Ended::Exited(0));
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_deref()).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_deref()).and_then(|code| code.trim().parse().ok());
    let code = code.filter(|_| status.reason.as_deref() == Some("NonZeroExitCode"));
    Ok(match code {
        Some(code) => Ended::Exited(code),
        None => Ended::Failed(status.message.unwrap_or_else(|| "the server does not say why".to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_the_command_s_own() {
        assert_eq!(ended(br#"{"metadata":{},"status":"Success"}"#), Ok(Ended::Exited(0)));
        let failed =
            br#"{"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode",
            "details":{"causes":[{"reason":"Other","message":"9"},{"reason":"ExitCode","message":"137"}]}}"#;
        assert_eq!(ended(failed), Ok(Ended::Exited(137)));
    }

    #[test]
    fn a_command_that_was_not_run_has_no_status_but_a_reason() {
        let failed = br#"{"status":"Failure","message":"container not found (\"gardend\")","reason":"InternalError","code":500}"#;
        assert_eq!(ended(failed), Ok(Ended::Failed("container not found (\"gardend\")".to_owned())));
        let odd = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"x"}]}}"#;
        assert_eq!(ended(odd), Ok(Ended::Failed("the server does not say why".to_owned())));
        assert!(ended(b"command terminated").is_err());
    }
}
