//! containerd's tasks service: what runs of a place, behind a shim.

use super::connection::{Connection, QUICK, SLOW};
use super::error::{CallError, CallErrorKind};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{CreateTaskRequest, DeleteTaskRequest, StartRequest, WaitRequest};
use std::time::Duration;

/// How long an exit that has happened may take to reach containerd.
const EXIT_NOTICED: Duration = Duration::from_secs(5);
/// How long it takes where nothing is wrong, and then some.
const EXIT_SEEN: Duration = Duration::from_millis(500);

/// Between one delete and the next: one that a containerd which died had asked for may still be
/// going on, and crun then says of files that they are not there, where a moment later it says
/// that of the container.
const PAUSES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(100)];

impl Connection {
    /// Makes the task, its first process held before its exec; answers its pid on the host.
    pub(super) async fn create_task(&self, id: &str) -> Result<u32, CallError> {
        let create = CreateTaskRequest { container_id: id.to_owned(), ..CreateTaskRequest::default() };
        let mut client = TasksClient::new(self.channel());
        let request = self.request(create, SLOW);
        let answer = self.call(SLOW, || format!("create task {id}"), client.create(request)).await?;
        Ok(answer.pid)
    }

    /// Lets the first process go.
    pub(super) async fn start_task(&self, id: &str) -> Result<(), CallError> {
        let mut client = TasksClient::new(self.channel());
        let request = self.request(StartRequest { container_id: id.to_owned(), exec_id: String::new() }, SLOW);
        self.call(SLOW, || format!("start task {id}"), client.start(request)).await.map(drop)
    }

    /// Removes a task whose processes are dead, with what its shim and its runtime keep of it. The
    /// kernel tells us of a death before the shim hears of it: where containerd takes the task for
    /// running, it is given time: a little before the delete, since each that is refused is an
    /// error in its log, and more after one that was. (A task that was never started has no exit
    /// to wait for, and can be deleted.)
    pub(super) async fn delete_dead_task(&self, id: &str) -> Result<(), CallError> {
        match self.wait_for_task(id, EXIT_SEEN).await {
            Err(error) if error.is_not_found() => return Err(error),
            // Whatever is wrong, the delete says it.
            _ => {}
        }
        for pause in PAUSES {
            match self.delete_task(id).await {
                Err(error) if matches!(error.kind, CallErrorKind::Precondition | CallErrorKind::Failed) => {
                    self.wait_for_task(id, EXIT_NOTICED).await?;
                    tokio::time::sleep(pause).await;
                }
                Err(error) if error.is_of_a_shim_that_hung_up() => tokio::time::sleep(pause).await,
                other => return other,
            }
        }
        self.delete_task(id).await
    }

    async fn delete_task(&self, id: &str) -> Result<(), CallError> {
        let mut client = TasksClient::new(self.channel());
        let request = self.request(DeleteTaskRequest { container_id: id.to_owned() }, QUICK);
        self.call(QUICK, || format!("delete task {id}"), client.delete(request)).await.map(drop)
    }

    async fn wait_for_task(&self, id: &str, patience: Duration) -> Result<(), CallError> {
        let mut client = TasksClient::new(self.channel());
        let wait = WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        let request = self.request(wait, patience);
        self.call(patience, || format!("see the exit of task {id}"), client.wait(request)).await.map(drop)
    }
}
