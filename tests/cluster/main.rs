//! gardend on a real cluster of one node: installed by helm, in a pod, with kubelet, the node's own
//! containerd and pods of others beside it.
//!
//! `make test-cluster` runs them, on a node of their own (tests/cluster/in-node.sh) that ends with
//! them: the paths that they use are the node's usual ones. GARDEND_CLUSTER_TOOLS names the folder
//! with the programs of Kubernetes, GARDEND_CLUSTER_CONTAINERD the one with containerd,
//! GARDEND_CLUSTER_IMAGE gardend's image, GARDEND_CLUSTER_WORKER the program of tests/go/worker.
//! Tests share the cluster and take turns.

#[path = "../cli_support/mod.rs"]
mod cli_support;
mod cluster;
mod concourse;
mod declared;
mod garden;
mod managed;
mod node;
mod plugin;
mod pods;
mod release;
mod survival;
