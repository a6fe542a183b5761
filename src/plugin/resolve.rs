//! Which container somebody means: by its handle, or by the name of the object that shows it.

use crate::cli::outcome::Failure;
use gardend_crds::GardenContainer;
use kube::ResourceExt;

/// A container, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) node: String,
    pub(super) handle: String,
    /// The name of its object, where it is known by one.
    pub(super) object: Option<String>,
}

/// Those among objects that are meant. The name of an object is its alone; a handle may be one of
/// several nodes.
pub(super) fn among_objects(objects: &[GardenContainer], wanted: &str) -> Vec<Target> {
    let target = |object: &GardenContainer| Target {
        node: object.spec.node_name.clone(),
        handle: object.spec.handle.clone().unwrap_or_else(|| object.name_any()),
        object: Some(object.name_any()),
    };
    let by_name = objects.iter().find(|object| object.name_any() == wanted);
    let by_handle = objects.iter().filter(|object| object.spec.handle.as_deref() == Some(wanted));
    let mut found: Vec<Target> = by_name.into_iter().chain(by_handle).map(target).collect();
    // One that is called as its handle is, was found twice.
    let mut seen = Vec::new();
    found.retain(|target| {
        let is_new = !seen.contains(&target.object);
        seen.push(target.object.clone());
        is_new
    });
    found
}

/// The one that is meant.
///
/// # Errors
/// Several are: they are named. `None` where none is.
pub(super) fn only(mut found: Vec<Target>, wanted: &str) -> Result<Option<Target>, Failure> {
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let name = |target: &Target| match &target.object {
        Some(object) => format!("{object} on node {}", target.node),
        None => format!("one on node {}", target.node),
    };
    let names: Vec<String> = found.iter().map(name).collect();
    Err(Failure::Usage(format!(
        "several containers are '{wanted}': {}; name the object, or the node by --node",
        names.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gardend_crds::GardenContainerSpec;

    fn object(name: &str, node: &str, handle: Option<&str>) -> GardenContainer {
        let spec = GardenContainerSpec {
            node_name: node.to_owned(),
            handle: handle.map(str::to_owned),
            ..GardenContainerSpec::default()
        };
        GardenContainer::new(name, spec)
    }

    fn found(objects: &[GardenContainer], wanted: &str) -> Result<Option<(String, String)>, String> {
        let one = only(among_objects(objects, wanted), wanted).map_err(|failure| format!("{failure:?}"))?;
        Ok(one.map(|target| (target.node, target.handle)))
    }

    #[test]
    fn a_handle_and_an_object_s_name_lead_to_the_container() {
        let objects = [object("web-1a", "n", Some("web")), object("db", "m", None), object("x", "m", Some("x"))];
        let at = |node: &str, handle: &str| Ok(Some((node.to_owned(), handle.to_owned())));
        assert_eq!(found(&objects, "web"), at("n", "web"));
        assert_eq!(found(&objects, "web-1a"), at("n", "web"));
        assert_eq!(found(&objects, "db"), at("m", "db"));
        assert_eq!(found(&objects, "x"), at("m", "x"));
        assert_eq!(found(&objects, "nobody"), Ok(None));
    }

    #[test]
    fn a_handle_of_several_nodes_is_no_one_s() {
        let objects = [object("web-1a", "n", Some("web")), object("web-2b", "m", Some("web"))];
        let why = found(&objects, "web").unwrap_err();
        assert!(why.contains("web-1a on node n, web-2b on node m") && why.contains("--node"), "{why}");
    }

    #[test]
    fn an_object_that_is_called_as_another_s_handle_is_not_taken_for_it() {
        let objects = [object("web", "n", Some("a")), object("b", "m", Some("web"))];
        assert!(found(&objects, "web").unwrap_err().contains("web on node n, b on node m"));
    }
}
