//! Manifests, indexes and configurations of images: what of them a pull reads, and the choice of
//! one for this machine. Pure.
//!
//! OCI's, and Docker's of schema 2, which are the same but for their media types. Sources:
//! opencontainers/image-spec, and distribution's `manifest-v2-2`.

use super::error::ImageError;
use crate::node::containerd::labels::hex;
use gardend_controller::record::ImageDigest;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fmt;

/// What registries are asked for, the better first.
pub(crate) const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Layers of an image; the kernel puts no more above each other.
const MAX_LAYERS: usize = 500;

/// The digest of these bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> ImageDigest {
    let text = format!("sha256:{}", hex(&Sha256::digest(bytes)));
    ImageDigest::new(text).unwrap_or_else(|_| unreachable!("it is made as one"))
}

/// A blob, as a document names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: ImageDigest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// What a program runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

/// What a name can stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// Images for several platforms.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// The media type of a document that does not say its own.
pub(crate) fn media_type(bytes: &[u8]) -> String {
    let raw: Option<Raw> = serde_json::from_slice(bytes).ok();
    match raw {
        Some(raw) if !raw.media_type.is_empty() => raw.media_type,
        Some(raw) if raw.manifests.is_some() => MANIFEST_TYPES[0].to_owned(),
        _ => MANIFEST_TYPES[2].to_owned(),
    }
}

impl Document {
    /// Reads one.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let unfit = |said: String| ImageError::Unfit(said);
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            schema_version: Option<u64>,
        }
        // Before the rest, which an old one does not have.
        let version: Version =
            serde_json::from_slice(bytes).map_err(|error| unfit(format!("its manifest is no JSON: {error}")))?;
        if version.schema_version == Some(1) {
            return Err(unfit(
                "its manifest is of Docker's schema 1, which says nothing that could be verified; \
                 push it again with a Docker of this decade"
                    .into(),
            ));
        }
        let raw: Raw =
            serde_json::from_slice(bytes).map_err(|error| unfit(format!("its manifest cannot be read: {error}")))?;
        if raw.schema_version != Some(2) {
            return Err(unfit("its manifest has no schemaVersion 2".into()));
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) => {
                if layers.len() > MAX_LAYERS {
                    return Err(unfit(format!(
                        "it has {} layers, and the kernel puts {MAX_LAYERS} together",
                        layers.len()
                    )));
                }
                let image =
                    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
                if !config.media_type.is_empty() && !image.contains(&config.media_type.as_str()) {
                    let kind = if raw.artifact_type.is_empty() { &config.media_type } else { &raw.artifact_type };
                    return Err(unfit(format!("it is no image of a root file system but an artifact of type {kind}")));
                }
                if let Some(odd) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
                    return Err(unfit(format!(
                        "its layer {} is of the type {:?}; gardend unpacks tar, plain or by gzip or zstd, \
                         that lies in the registry",
                        odd.digest, odd.media_type
                    )));
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            _ => Err(unfit("its manifest is neither one image's nor an index".into())),
        }
    }
}

/// What containerd unpacks.
fn is_layer(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
    )
}

impl Platform {
    /// This machine's.
    pub(crate) fn of_this_machine() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }

    /// How well what is for `other` runs here; `None`: not at all.
    fn suits(&self, other: &Self) -> Option<u8> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        let level = |variant: &Option<String>| {
            let digits = variant.as_deref().and_then(|text| text.strip_prefix('v')?.parse::<u8>().ok());
            digits.unwrap_or(match self.architecture.as_str() {
                "arm64" => 8,
                "arm" => 7,
                _ => 1,
            })
        };
        // Newer processors run what older ones do.
        let (here, there) = (level(&self.variant), level(&other.variant));
        (there <= here).then_some(there)
    }

    /// The best of an index.
    pub(crate) fn choose<'a>(&self, of: &'a [Descriptor]) -> Result<&'a Descriptor, ImageError> {
        let suits = |descriptor: &&Descriptor| match &descriptor.platform {
            Some(platform) => self.suits(platform),
            // Nothing else is said of it.
            None if of.len() == 1 => Some(0),
            None => None,
        };
        // The first of those that suit alike.
        let best = of.iter().rev().filter_map(|descriptor| Some((suits(&descriptor)?, descriptor)));
        best.max_by_key(|(level, _)| *level).map(|(_, descriptor)| descriptor).ok_or_else(|| {
            let known = of.iter().filter_map(|descriptor| descriptor.platform.as_ref());
            let known: Vec<_> = known.filter(|known| known.os != "unknown").map(ToString::to_string).collect();
            let known = if known.is_empty() { "nothing".into() } else { known.join(", ") };
            ImageError::Unfit(format!("it is for {known}, and this machine is {self}"))
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// What of a configuration counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// `K=V`.
    pub(crate) env: Vec<String>,
    /// Of the layers, unpacked.
    pub(crate) diff_ids: Vec<ImageDigest>,
}

impl Config {
    /// Reads that of an image with so many layers, which must be for this platform.
    pub(crate) fn parse(bytes: &[u8], layers: usize, here: &Platform) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(flatten)]
            platform: Platform,
            config: Option<Inner>,
            rootfs: Option<Rootfs>,
        }
        #[derive(Deserialize)]
        struct Inner {
            #[serde(rename = "Env")]
            env: Option<Vec<String>>,
        }
        #[derive(Deserialize)]
        struct Rootfs {
            diff_ids: Option<Vec<ImageDigest>>,
        }
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::Unfit(format!("its configuration cannot be read: {error}")))?;
        let there = &raw.platform;
        // Some say nothing; they have always been run.
        if !there.os.is_empty() && !there.architecture.is_empty() && here.suits(there).is_none() {
            return Err(ImageError::Unfit(format!("it is for {there}, and this machine is {here}")));
        }
        let diff_ids = raw.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
        if diff_ids.len() != layers {
            return Err(ImageError::Unfit(format!(
                "it has {layers} layers by its manifest and {} by its configuration",
                diff_ids.len()
            )));
        }
        if diff_ids.is_empty() {
            return Err(ImageError::Unfit("it has no layers".into()));
        }
        let env = raw.config.and_then(|config| config.env).unwrap_or_default();
        // What no process could be given.
        let env = env.into_iter().filter(|pair| !pair.starts_with('=') && !pair.is_empty() && !pair.contains('\0'));
        Ok(Self { env: env.collect(), diff_ids })
    }

    /// The names of the snapshots of its layers, the lowest first (OCI's chain ids).
    pub(crate) fn chain(&self) -> Vec<ImageDigest> {
        let mut chain: Vec<ImageDigest> = Vec::new();
        for diff in &self.diff_ids {
            let next = match chain.last() {
                None => diff.clone(),
                Some(below) => digest_of(format!("{below} {diff}").as_bytes()),
            };
            chain.push(next);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn unfit(result: Result<impl fmt::Debug, ImageError>) -> String {
        result.unwrap_err().to_string()
    }

    fn entry(os: &str, architecture: &str, variant: Option<&str>, size: u64) -> Descriptor {
        let platform = Platform { os: os.into(), architecture: architecture.into(), variant: variant.map(Into::into) };
        Descriptor {
            media_type: String::new(),
            digest: ImageDigest::new(DIGEST).unwrap(),
            size,
            platform: Some(platform),
            annotations: Default::default(),
        }
    }

    #[test]
    fn what_is_no_image_for_us_is_refused_in_words() {
        for (text, words) in [
            ("{", "no JSON"),
            (r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}]}"#, "schema 1"),
            (r#"{"layers":[]}"#, "schemaVersion"),
            (r#"{"schemaVersion":2}"#, "neither one image's nor an index"),
            (r#"{"schemaVersion":2,"config":{"digest":"md5:x","size":1},"layers":[]}"#, "not by sha256"),
        ] {
            let error = unfit(Document::parse(text.as_bytes()));
            assert!(error.contains(words), "{error}");
        }
        let with = |config: &str, layer: &str| {
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"{DIGEST}","size":1}},
                "layers":[{{"mediaType":"{layer}","digest":"{DIGEST}","size":1}}]}}"#
            )
        };
        let config = "application/vnd.oci.image.config.v1+json";
        let good = with(config, "application/vnd.oci.image.layer.v1.tar+zstd");
        assert!(matches!(Document::parse(good.as_bytes()), Ok(Document::Manifest(_))));
        let helm = with("application/vnd.cncf.helm.config.v1+json", "x");
        assert!(unfit(Document::parse(helm.as_bytes())).contains("vnd.cncf.helm.config"));
        let foreign = with(config, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        assert!(unfit(Document::parse(foreign.as_bytes())).contains("foreign"));
    }

    #[test]
    fn the_best_for_this_machine_is_chosen_of_an_index() {
        let arm = Platform { os: "linux".into(), architecture: "arm64".into(), variant: Some("v8".into()) };
        let amd = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
        let index = [
            entry("unknown", "unknown", None, 0),
            entry("windows", "amd64", None, 1),
            entry("linux", "amd64", Some("v3"), 2),
            entry("linux", "amd64", None, 3),
            entry("linux", "amd64", None, 4),
            entry("linux", "arm64", None, 5),
            entry("linux", "arm64", Some("v9"), 6),
        ];
        assert_eq!(amd.choose(&index).unwrap().size, 3);
        assert_eq!(arm.choose(&index).unwrap().size, 5);
        let error = unfit(amd.choose(&index[..2]));
        assert!(error.contains("for windows/amd64, and this machine is linux/amd64"), "{error}");
        let old = Platform { os: "linux".into(), architecture: "arm".into(), variant: Some("v6".into()) };
        let variants = [
            entry("linux", "arm", Some("v7"), 7),
            entry("linux", "arm", Some("v5"), 5),
            entry("linux", "arm", Some("v6"), 6),
        ];
        assert_eq!(old.choose(&variants).unwrap().size, 6);
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let diff = |digit: &str| ImageDigest::new(format!("sha256:{}", digit.repeat(64))).unwrap();
        let config = Config { env: vec![], diff_ids: vec![diff("a"), diff("b")] };
        let both = format!("sha256:{} sha256:{}", "a".repeat(64), "b".repeat(64));
        assert_eq!(config.chain(), [diff("a"), digest_of(both.as_bytes())]);
    }

    #[test]
    fn a_configuration_tells_the_environment_and_the_layers() {
        let here = Platform::of_this_machine();
        let text = format!(
            r#"{{"os":"linux","architecture":"{}","config":{{"Env":["A=b","=c","BARE"]}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}}}}"#,
            here.architecture
        );
        let config = Config::parse(text.as_bytes(), 1, &here).unwrap();
        assert_eq!(config.env, ["A=b", "BARE"]);
        assert!(unfit(Config::parse(text.as_bytes(), 2, &here)).contains("2 layers by its manifest and 1"));
        let other = text.replace("\"linux\"", "\"plan9\"");
        assert!(unfit(Config::parse(other.as_bytes(), 1, &here)).contains("for plan9/"));
        assert!(unfit(Config::parse(b"{}", 0, &here)).contains("no layers"));
        let none = r#"{"config":null,"rootfs":{"diff_ids":[]}}"#;
        assert!(unfit(Config::parse(none.as_bytes(), 0, &here)).contains("no layers"));
    }
}
