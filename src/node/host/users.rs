//! Whom a process runs as: the host's own users, as far as gardend may become them.

use garden_init::accounts::{self, AccountError};
use rustix::process::{getegid, geteuid};

/// Who gardend is.
#[derive(Clone, Copy, Debug)]
pub struct Users {
    uid: u32,
    gid: u32,
}

/// Why somebody cannot be.
#[derive(Debug, PartialEq, Eq)]
pub enum UserError {
    Unknown,
    UnknownGroup(String),
    /// In words.
    NotAllowed(String),
}

impl Users {
    pub fn of_this_process() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    /// The user in words that garden-init understands. Root can be anybody; anybody else is what
    /// they are, and the root of a container is them.
    pub fn resolve(&self, asked: &str) -> Result<String, UserError> {
        if self.uid == 0 {
            return Ok(asked.to_owned());
        }
        let read = |path| std::fs::read(path).unwrap_or_default();
        self.resolve_among(asked, &read("/etc/passwd"), &read("/etc/group"))
    }

    fn resolve_among(&self, asked: &str, passwd: &[u8], group: &[u8]) -> Result<String, UserError> {
        let account = accounts::resolve(asked, passwd, group).map_err(|error| match error {
            AccountError::UnknownUser => UserError::Unknown,
            AccountError::UnknownGroup(group) => UserError::UnknownGroup(group),
        })?;
        if account.uid != 0 && account.uid != self.uid {
            return Err(UserError::NotAllowed(format!(
                "gardend runs as uid {} (--backend host) and cannot start anything as user '{asked}'; ask for no user, \
                 or run gardend as root",
                self.uid
            )));
        }
        Ok(format!("{}:{}", self.uid, self.gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n";

    #[test]
    fn without_root_everybody_is_gardends_own_user_or_refused() {
        let me = Users { uid: 1000, gid: 100 };
        for asked in ["", "root", "0", "me", "1000", "1000:5", "root:0"] {
            assert_eq!(me.resolve_among(asked, PASSWD, b""), Ok("1000:100".to_owned()), "{asked}");
        }
        let refused = me.resolve_among("bob", PASSWD, b"");
        assert!(matches!(&refused, Err(UserError::NotAllowed(why)) if why.contains("'bob'")), "{refused:?}");
        assert_eq!(me.resolve_among("nobody", PASSWD, b""), Err(UserError::Unknown));
        assert_eq!(me.resolve_among("me:wheel", PASSWD, b""), Err(UserError::UnknownGroup("wheel".into())));
    }

    #[test]
    fn root_leaves_users_to_the_init() {
        let root = Users { uid: 0, gid: 0 };
        assert_eq!(root.resolve("bob:wheel"), Ok("bob:wheel".to_owned()));
    }
}
