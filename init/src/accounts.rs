//! Users and groups, from the text of a container's own `/etc/passwd` and `/etc/group`.
//!
//! The files are the container's to write, so nothing is assumed of them: a line that is not of
//! the form that passwd(5) or group(5) tells is as if it were not there. Which of several lines
//! counts: the first. Reading the files, bounded, is left to the caller.

/// At most so many supplementary groups: the kernel's own limit.
pub const MAX_GROUPS: usize = 65_536;

/// Whom a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The main group's number.
    pub gid: u32,
    /// The supplementary groups, each once, in the order of the file.
    pub groups: Vec<u32>,
    /// Absolute.
    pub home: Vec<u8>,
    /// For USER: the name in the file, else the number as it was asked for.
    pub name: Vec<u8>,
}

/// What the files do not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// Neither a user's name nor a number.
    #[error("no such user")]
    UnknownUser,
    /// Neither a group's name nor a number.
    #[error("no such group: {0}")]
    UnknownGroup(String),
}

/// A line of passwd(5), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// A line of group(5), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// Finds whom `asked` names: nothing for root, a user's name or number, and behind a colon a
/// group's. A number need not be in the files (group 0 and home `/` then), and root is always known.
/// Another group than the user's own leaves the supplementary groups as they are.
///
/// # Errors
/// What is not known.
pub fn resolve(asked: &str, passwd: &[u8], group: &[u8]) -> Result<Account, AccountError> {
    let (user, main_group) = asked.split_once(':').unwrap_or((asked, ""));
    let mut account = resolve_user(user, passwd)?;
    let is_known = users(passwd).any(|known| known.name == account.name && known.uid == account.uid);
    if is_known {
        account.groups = groups_of(&account.name, group);
    }
    if !main_group.is_empty() {
        account.gid = resolve_group(main_group, group)?;
    }
    Ok(account)
}

fn resolve_user(asked: &str, passwd: &[u8]) -> Result<Account, AccountError> {
    let name = if asked.is_empty() { "root" } else { asked };
    let uid = if name == "root" { Some(0) } else { number(name.as_bytes()) };
    let named = users(passwd).find(|user| user.name == name.as_bytes());
    if let Some(user) = named.or_else(|| users(passwd).find(|user| Some(user.uid) == uid)) {
        let home = if user.home.starts_with(b"/") { user.home } else { b"/" };
        return Ok(Account {
            uid: user.uid,
            gid: user.gid,
            groups: Vec::new(),
            home: home.to_vec(),
            name: user.name.to_vec(),
        });
    }
    let uid = uid.ok_or(AccountError::UnknownUser)?;
    Ok(Account { uid, gid: 0, groups: Vec::new(), home: b"/".to_vec(), name: name.as_bytes().to_vec() })
}

fn resolve_group(asked: &str, group: &[u8]) -> Result<u32, AccountError> {
    let named = groups(group).find(|group| group.name == asked.as_bytes()).map(|group| group.gid);
    named.or_else(|| number(asked.as_bytes())).ok_or_else(|| AccountError::UnknownGroup(asked.to_owned()))
}

fn groups_of(user: &[u8], group: &[u8]) -> Vec<u32> {
    let mut seen = std::collections::BTreeSet::new();
    let listing = groups(group).filter(|group| group.members.split(|byte| *byte == b',').any(|member| member == user));
    listing.map(|group| group.gid).filter(|gid| seen.insert(*gid)).take(MAX_GROUPS).collect()
}

fn users(passwd: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        let home = fields.nth(1).unwrap_or_default();
        (!name.is_empty()).then_some(User { name, uid, gid, home })
    })
}

fn groups(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = number(fields.next()?)?;
        let members = fields.next().unwrap_or_default();
        (!name.is_empty()).then_some(Group { name, gid, members })
    })
}

/// NUL cannot be part of a path or of an environment.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#") && !line.contains(&0))
}

/// Digits alone; the highest number stands for "no change" in the kernel's calls.
fn number(text: &[u8]) -> Option<u32> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number: u32 = is_plain.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()?;
    (number != u32::MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment:x:5:5::/:\n\
        broken line\n\
        short:x:12\n\
        worse:x:-1:0::/:\n\
        highest:x:4294967295:0::/:\n\
        :x:77:77::/nobody:\n\
        alice:x:1000:100:Alice,,,:/home/alice:/bin/bash\n\
        alice:x:1001:101:another:/home/other:/bin/bash\n\
        1234:x:55:55::/home/digits:\n\
        homeless:x:1002:100\n\
        relative:x:1003:100::var/empty:/bin/false\n";
    const GROUP: &[u8] = b"root:x:0:root\nusers:x:100:\nwheel:x:10:root,alice\nbad:x:ten:alice\n\
        audio:x:63:alice\nagain:x:63:alice\nother:x:64:alicia,bob\nlast:x:65:bob,alice";

    fn of(asked: &str) -> Result<Account, AccountError> {
        resolve(asked, PASSWD, GROUP)
    }

    fn numbers(asked: &str) -> (u32, u32, Vec<u32>) {
        let account = of(asked).unwrap();
        (account.uid, account.gid, account.groups)
    }

    #[test]
    fn nothing_asked_is_root() {
        let root = of("").unwrap();
        assert_eq!((root.uid, root.gid, root.groups), (0, 0, vec![0, 10]));
        assert_eq!((&root.home[..], &root.name[..]), (&b"/root"[..], &b"root"[..]));
    }

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_all_groups() {
        let alice = of("alice").unwrap();
        assert_eq!((alice.uid, alice.gid), (1000, 100));
        assert_eq!(alice.groups, [10, 63, 65]);
        assert_eq!(alice.home, b"/home/alice");
        assert_eq!(of("1000").unwrap(), alice);
    }

    #[test]
    fn a_name_of_digits_counts_before_a_number() {
        assert_eq!(numbers("1234"), (55, 55, vec![]));
    }

    #[test]
    fn a_group_is_taken_by_name_or_number_and_leaves_the_others() {
        assert_eq!(numbers("alice:wheel"), (1000, 10, vec![10, 63, 65]));
        assert_eq!(numbers("1000:4242"), (1000, 4242, vec![10, 63, 65]));
        assert_eq!(numbers("alice:"), (1000, 100, vec![10, 63, 65]));
        assert_eq!(numbers(":users"), (0, 100, vec![0, 10]));
    }

    #[test]
    fn a_number_that_nobody_has_is_taken_as_it_is() {
        let nobody = of("31337").unwrap();
        assert_eq!((nobody.uid, nobody.gid, nobody.groups), (31337, 0, vec![]));
        assert_eq!((&nobody.home[..], &nobody.name[..]), (&b"/"[..], &b"31337"[..]));
        assert_eq!(numbers("31337:99"), (31337, 99, vec![]));
    }

    #[test]
    fn what_is_not_known_is_said() {
        for unknown in
            ["bob", "short", "worse", "highest", "4294967295", "-1", "+1", "99999999999", " root", "broken line"]
        {
            assert_eq!(of(unknown), Err(AccountError::UnknownUser), "{unknown}");
        }
        assert_eq!(of("alice:nowhere"), Err(AccountError::UnknownGroup("nowhere".into())));
        assert_eq!(of("alice:bad"), Err(AccountError::UnknownGroup("bad".into())));
        assert_eq!(of("alice:wheel:more"), Err(AccountError::UnknownGroup("wheel:more".into())));
    }

    #[test]
    fn without_the_files_root_and_numbers_work_alone() {
        for asked in ["", "root", "0", "root:0", "0:0"] {
            let root = resolve(asked, b"", b"").unwrap();
            assert_eq!((root.uid, root.gid, &root.home[..]), (0, 0, &b"/"[..]), "{asked}");
        }
        assert_eq!(resolve("7:8", b"", b"").map(|account| (account.uid, account.gid)), Ok((7, 8)));
        assert_eq!(resolve("alice", b"", b""), Err(AccountError::UnknownUser));
    }

    #[test]
    fn a_home_that_is_missing_or_relative_is_the_root() {
        assert_eq!(of("homeless").unwrap().home, b"/");
        assert_eq!(of("relative").unwrap().home, b"/");
    }

    #[test]
    fn groups_are_bounded() {
        let text: String = (1..70_000).map(|gid| format!("g{gid}:x:{gid}:root\n")).collect();
        assert_eq!(resolve("root", b"root:x:0:0::/:", text.as_bytes()).unwrap().groups.len(), MAX_GROUPS);
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_not_but_never_trips(
            asked in "[a-z0-9:]{0,12}", passwd in any::<Vec<u8>>(), group in any::<Vec<u8>>()
        ) {
            if let Ok(account) = resolve(&asked, &passwd, &group) {
                prop_assert!(account.home.starts_with(b"/") && account.uid != u32::MAX && account.gid != u32::MAX);
            }
        }

        #[test]
        fn junk_lines_hide_nobody(junk in proptest::collection::vec("[^\n]{0,30}", 0..20)) {
            let junk: Vec<_> = junk.into_iter().filter(|line| !line.starts_with("zoe:")).collect();
            let passwd = format!("{}\nzoe:x:4001:4002::/home/zoe:\n", junk.join("\n"));
            let zoe = resolve("zoe", passwd.as_bytes(), b"").unwrap();
            prop_assert_eq!((zoe.uid, zoe.gid, &zoe.home[..]), (4001, 4002, &b"/home/zoe"[..]));
        }
    }
}
