//! Whether gardend is of use: checks, and what is told of them.
//!
//! Alive is who answers: nothing else is asked, since a restart of gardend mends neither a containerd
//! that is away nor a disk that is full. Ready is who can do what clients ask for.

use async_trait::async_trait;
use gardend_controller::Health;
use std::fmt::Write as _;

/// Whoever knows how well gardend is.
#[async_trait]
pub trait Checks: Send + Sync + 'static {
    /// Each check and what came of it, within a few seconds.
    async fn check(&self) -> Vec<Health>;
}

/// Whether it can do what clients ask for, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness(pub Vec<Health>);

impl Readiness {
    /// Every check succeeded.
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(|check| check.result.is_ok())
    }

    /// A line for each check; all of them where that is asked for, or where one fails.
    pub fn page(&self, verbose: bool) -> String {
        let ready = self.is_ready();
        if ready && !verbose {
            return "ok\n".to_owned();
        }
        let mut page = String::new();
        for Health { name, result } in &self.0 {
            // A String takes everything.
            let _ = match result {
                Ok(()) => writeln!(page, "[+]{name} ok"),
                Err(reason) => writeln!(page, "[-]{name} failed: {}", reason.replace('\n', " ")),
            };
        }
        page.push_str(if ready { "readyz check passed\n" } else { "readyz check failed\n" });
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, result: Result<(), &str>) -> Health {
        Health { name, result: result.map_err(str::to_owned) }
    }

    #[test]
    fn what_fails_is_told_with_its_reason_and_what_does_not_is_listed_beside() {
        let ready = Readiness(vec![check("ledger", Ok(())), check("network", Ok(()))]);
        assert_eq!(ready.page(false), "ok\n");
        assert_eq!(ready.page(true), "[+]ledger ok\n[+]network ok\nreadyz check passed\n");
        let not = Readiness(vec![check("ledger", Err("disk\nfull")), check("network", Ok(()))]);
        assert!(!not.is_ready());
        assert_eq!(not.page(false), "[-]ledger failed: disk full\n[+]network ok\nreadyz check failed\n");
    }
}
