//! A process's environment, from what was asked and whom it runs as; and where it makes a program
//! be looked for.

use crate::accounts::Account;
use std::collections::BTreeMap;

/// For root.
const ROOT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For everybody else.
const USER_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";
/// What a terminal is taken to be where nobody says.
const TERMINAL: &[u8] = b"xterm";

/// The variables in the order in which they were first named, each once and with its last value;
/// then HOME, USER, PATH (and TERM for a terminal) where they are not among them.
pub fn complete(asked: &[Vec<u8>], account: &Account, home: &[u8], has_terminal: bool) -> Vec<Vec<u8>> {
    let mut places = BTreeMap::new();
    let mut variables: Vec<Vec<u8>> = Vec::with_capacity(asked.len() + 4);
    for variable in asked {
        match places.get(name(variable)) {
            Some(&place) => variables[place] = variable.clone(),
            None => {
                places.insert(name(variable), variables.len());
                variables.push(variable.clone());
            }
        }
    }
    let path = if account.uid == 0 { ROOT_PATH } else { USER_PATH };
    let mut defaults: Vec<(&[u8], &[u8])> = vec![(b"HOME", home), (b"USER", &account.name), (b"PATH", path)];
    if has_terminal {
        defaults.push((b"TERM", TERMINAL));
    }
    for (name, value) in defaults {
        if !places.contains_key(name) {
            variables.push([name, b"=", value].concat());
        }
    }
    variables
}

/// Where to look for `program`: it is one itself if it names a folder, otherwise it is looked for
/// in each folder of PATH (an empty one is the working folder).
pub fn candidates(program: &[u8], environment: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix(b"PATH=")).unwrap_or(USER_PATH);
    path.split(|byte| *byte == b':')
        .map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            [folder, b"/", program].concat()
        })
        .collect()
}

fn name(variable: &[u8]) -> &[u8] {
    variable.split(|byte| *byte == b'=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(uid: u32) -> Account {
        Account { uid, gid: 0, groups: vec![], home: b"/home/zoe".to_vec(), name: b"zoe".to_vec() }
    }

    fn environment(asked: &[&str], uid: u32, has_terminal: bool) -> Vec<String> {
        let asked: Vec<_> = asked.iter().map(|variable| variable.as_bytes().to_vec()).collect();
        let all = complete(&asked, &account(uid), b"/home/zoe", has_terminal);
        all.into_iter().map(|variable| String::from_utf8(variable).unwrap()).collect()
    }

    #[test]
    fn the_later_of_two_wins_at_the_place_of_the_first() {
        let got = environment(&["A=1", "PATH=/x", "A=2=3", "HOME=/h", "USER=u", "B", "B=x"], 1, false);
        assert_eq!(got, ["A=2=3", "PATH=/x", "HOME=/h", "USER=u", "B=x"]);
    }

    #[test]
    fn what_is_unset_is_added() {
        let user = ["HOME=/home/zoe", "USER=zoe", "PATH=/usr/local/bin:/usr/bin:/bin"];
        assert_eq!(environment(&[], 1, false), user);
        assert!(environment(&[], 0, false).contains(&format!("PATH={}", String::from_utf8_lossy(ROOT_PATH))));
        assert_eq!(environment(&[], 1, true).last().unwrap(), "TERM=xterm");
        assert!(!environment(&["TERM=vt100"], 1, true).contains(&"TERM=xterm".to_owned()));
        assert!(environment(&["PATH="], 1, false).contains(&"PATH=".to_owned()));
    }

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_is_not() {
        let path = [b"A=1".to_vec(), b"PATH=/bin::/sbin".to_vec()];
        assert_eq!(candidates(b"ls", &path), [&b"/bin/ls"[..], b"./ls", b"/sbin/ls"]);
        assert_eq!(candidates(b"./ls", &path), [b"./ls"]);
        assert!(candidates(b"", &path).is_empty());
    }
}
