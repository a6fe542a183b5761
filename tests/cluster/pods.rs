//! The cluster is one: pods run in it, are entered, and reach the API server by its service.

use crate::cluster::{Cluster, NODE, sleeper};

#[test]
fn a_pod_runs_is_entered_and_reaches_the_api_server() {
    let cluster = Cluster::take();
    cluster.apply(&sleeper("visitor"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/visitor", "--timeout=180s"]);
    assert_eq!(cluster.get(&["pod", "visitor"])["spec"]["nodeName"], NODE);

    let told = "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace";
    assert_eq!(cluster.kubectl(&["exec", "visitor", "--", "sh", "-c", told]), "default");
    let reach = "busybox nc -w 10 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo reached";
    assert_eq!(cluster.kubectl(&["exec", "visitor", "--", "sh", "-c", reach]), "reached\n");
    assert!(cluster.ctr("k8s.io", &["images", "ls", "-q"]).contains("localhost/busybox:1"));
    cluster.kubectl(&["delete", "pod", "visitor"]);
}
