//! `ProcessSpec`: what a run asks for.

use super::container::{BindMount, CpuLimits, ImageRef, MemoryLimits, bind_mounts, rootfs};
use super::{TtySpec, Unacceptable, check_env, non_empty, without_nul};
use gardend_controller::record::{self, ProcessId, ProcessImage, Rlimit, RlimitResource};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessSpec {
    id: String,
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    dir: String,
    user: String,
    rlimits: ResourceLimits,
    limits: Option<ProcessLimits>,
    tty: Option<TtySpec>,
    image: ImageRef,
    bind_mounts: Vec<BindMount>,
}

/// Limits that stand in for the container's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProcessLimits {
    cpu_limits: CpuLimits,
    memory_limits: MemoryLimits,
}

impl ProcessLimits {
    fn into_limits(self) -> record::ProcessLimits {
        record::ProcessLimits {
            cpu_weight: self.cpu_limits.weight,
            cpu_shares: self.cpu_limits.limit_in_shares,
            memory_bytes: self.memory_limits.limit_in_bytes,
        }
    }
}

macro_rules! resource_limits {
    ($($name:ident => $resource:ident),*) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        struct ResourceLimits {
            $($name: Option<u64>,)*
        }

        impl ResourceLimits {
            fn asked(&self) -> Vec<Rlimit> {
                let all = [$((RlimitResource::$resource, self.$name)),*];
                all.into_iter().filter_map(|(resource, value)| Some(Rlimit { resource, value: value? })).collect()
            }
        }
    };
}

resource_limits! {
    r#as => As, core => Core, cpu => Cpu, data => Data, fsize => Fsize, locks => Locks, memlock => Memlock,
    msgqueue => Msgqueue, nice => Nice, nofile => Nofile, nproc => Nproc, rss => Rss, rtprio => Rtprio,
    sigpending => Sigpending, stack => Stack
}

impl ProcessSpec {
    /// The spec in the controller's words.
    pub(crate) fn into_spec(self) -> Result<record::ProcessSpec, Unacceptable> {
        let image = match (self.image.uri.is_empty(), self.bind_mounts.is_empty()) {
            (true, true) => None,
            (true, false) => {
                let reason = "a process can have bind mounts only together with an image of its own";
                return Err(Unacceptable::field("bind_mounts", reason));
            }
            (false, _) => {
                let rootfs = rootfs("", &self.image.uri)?;
                let (bind_mounts, credentials) = (bind_mounts(&self.bind_mounts)?, self.image.credentials());
                Some(ProcessImage { rootfs, bind_mounts, credentials })
            }
        };
        if self.path.is_empty() {
            return Err(Unacceptable::field("path", "is missing; name the program to run"));
        }
        for (field, text) in [("path", &self.path), ("dir", &self.dir), ("user", &self.user)] {
            without_nul(|| field.to_owned(), text)?;
        }
        for (index, argument) in self.args.iter().enumerate() {
            without_nul(|| format!("args[{index}]"), argument)?;
        }
        check_env(&self.env)?;
        Ok(record::ProcessSpec {
            id: non_empty(self.id).map(ProcessId::new).transpose()?,
            path: self.path,
            args: self.args,
            env: self.env,
            dir: non_empty(self.dir),
            user: non_empty(self.user),
            rlimits: self.rlimits.asked(),
            tty: self.tty.map(|tty| tty.size().unwrap_or(record::WindowSize::DEFAULT)),
            image,
            limits: self.limits.unwrap_or_default().into_limits(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garden::wire::json;

    fn spec(text: &str) -> Result<record::ProcessSpec, String> {
        let spec: ProcessSpec = json::parse(text.as_bytes(), "").map_err(|error| error.to_string())?;
        spec.into_spec().map_err(|error| error.to_string())
    }

    #[test]
    fn everything_that_can_be_had_is_carried_over() {
        let asked = spec(
            r#"{"id":"p","path":"sh","args":["-c",""],"env":["A=b"],"dir":"/d","user":"u","limits":{},
            "rlimits":{"as":1,"nofile":0,"core":null},"tty":{"window_size":{"columns":100,"rows":30}}}"#,
        )
        .unwrap();
        assert_eq!(asked.id.unwrap().as_str(), "p");
        assert_eq!(asked.args, ["-c", ""]);
        assert_eq!((asked.dir.as_deref(), asked.user.as_deref()), (Some("/d"), Some("u")));
        let rlimits: Vec<_> = asked.rlimits.iter().map(|limit| (limit.resource, limit.value)).collect();
        assert_eq!(rlimits, [(RlimitResource::As, 1), (RlimitResource::Nofile, 0)]);
        assert_eq!(asked.tty, Some(record::WindowSize { columns: 100, rows: 30 }));
    }

    #[test]
    fn an_image_comes_with_its_bind_mounts() {
        let asked = spec(
            r#"{"path":"sh","image":{"uri":"raw:///image"},"bind_mounts":[{"src_path":"/a","dst_path":"/b","mode":1}]}"#,
        )
        .unwrap();
        let image = asked.image.unwrap();
        assert_eq!(image.rootfs, record::RootfsSource::Raw("/image".into()));
        assert_eq!(image.bind_mounts[0].target, std::path::Path::new("/b"));
        assert_eq!(spec(r#"{"path":"sh","image":{}}"#).unwrap().image, None);
    }

    #[test]
    fn limits_of_its_own_are_carried_over_by_their_names() {
        let asked = spec(
            r#"{"path":"x","limits":{"memory_limits":{"limit_in_bytes":1},"cpu_limits":{"limit_in_shares":2,"weight":3}}}"#,
        );
        let limits = asked.unwrap().limits;
        assert_eq!(limits, record::ProcessLimits { memory_bytes: 1, cpu_shares: 2, cpu_weight: 3 });
        for none in ["{}", "null", r#"{"memory_limits":{},"cpu_limits":{"weight":0}}"#] {
            assert!(!spec(&format!(r#"{{"path":"x","limits":{none}}}"#)).unwrap().limits.any(), "{none}");
        }
        let error = spec(r#"{"path":"x","limits":{"memory_limits":{"limit_in_bytes":-1}}}"#).unwrap_err();
        assert!(error.contains("limits.memory_limits.limit_in_bytes"), "{error}");
    }

    #[test]
    fn a_terminal_without_a_size_has_the_default_one() {
        for tty in ["{}", r#"{"window_size":null}"#, r#"{"window_size":{}}"#] {
            let asked = spec(&format!(r#"{{"path":"sh","tty":{tty}}}"#)).unwrap();
            assert_eq!(asked.tty, Some(record::WindowSize::DEFAULT), "{tty}");
        }
        assert_eq!(spec(r#"{"path":"sh","tty":null}"#).unwrap().tty, None);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (text, part) in [
            ("{}", "path: is missing"),
            (r#"{"path":"x","image":{"uri":"docker://busybox"}}"#, "image.uri: has no image name"),
            (r#"{"path":"x","image":{"uri":"busybox"}}"#, "image.uri: \"busybox\" is not an absolute path"),
            (r#"{"path":"x","bind_mounts":[{}]}"#, "bind_mounts: a process can have bind mounts only"),
            (r#"{"path":"x","args":["a","b\u0000"]}"#, "args[1]: holds a zero byte"),
            (r#"{"path":"x","id":"a%b"}"#, "process id"),
            (r#"{"path":"x","tty":{"window_size":{"rows":65536}}}"#, "tty.window_size.rows is wrong"),
        ] {
            let error = spec(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
