"""KubeRay's RayJob as a state machine (v1.7.0, `rayjob_controller.go`), in seconds of its own: what becomes of a job
whose head is killed. A head that is lost takes the Ray job with it; RayCluster makes another head. What then happens
depends on the submitter, a Kubernetes Job that is tried again (its `backoffLimit` is 2) and submits the command once
more where the new head does not know it, and on `backoffLimit` of the RayJob, which begins with a new cluster.
"""

from dataclasses import dataclass, field

RECONCILE_S = 3
HEAD_S = 40  # from a head's Pod to its dashboard
SUBMITTER_TRIES = 3  # backoffLimit 2
FOLLOW_S = 2  # a submitter notices that its head is gone
SUBMITTER_WAIT_S = (10, 20)  # between tries, as the Job controller waits
FINISHED_GRACE_S = (
    30  # the submitter is done, the Ray job's end is not known: "JobDeploymentStatusTransitionGracePeriod"
)


@dataclass
class Store:
    """What survives everything: the last checkpoint."""

    step: int = 0
    redone: int = 0


@dataclass
class RayJob:
    """One RayJob with the fields of its spec, run second by second."""

    spec: dict
    steps: int
    checkpoint_every: int
    store: Store = field(default_factory=Store)
    status: dict = field(default_factory=lambda: {"jobDeploymentStatus": "", "jobStatus": "", "failed": 0})
    clusters: set = field(default_factory=set)
    made: int = 0
    now: int = 0
    started: int = 0  # of this attempt, for the deadlines
    head_ready: int | None = None
    at_step: int | None = None  # of the Ray job on the present head; None where that head knows no job
    result: str = ""
    submitter: str = ""  # "", follows, failed, done
    submitter_tries: int = 0
    submitter_next: int = 0
    followed: bool = False  # it has submitted, or found, the job on this head
    finished_at: int | None = None
    ended_at: int | None = None

    def second(self, *, killed):
        """Let one second pass; `killed` takes the head away at its beginning."""
        self.now += 1
        if killed and self.clusters:
            self._lose_head()
        self._work()
        self._submit()
        if self.now % RECONCILE_S == 0:
            self._reconcile()

    def _lose_head(self):
        if self.at_step is not None and not self.result:
            self.store.redone += self.at_step - self.store.step
        self.head_ready, self.at_step, self.result = self.now + HEAD_S, None, ""

    def _up(self):
        return bool(self.clusters) and self.head_ready is not None and self.now >= self.head_ready

    def _work(self):
        if not self._up() or self.at_step is None or self.result:
            return
        self.at_step += 1
        if self.at_step % self.checkpoint_every == 0 or self.at_step == self.steps:
            self.store.step = self.at_step
        if self.at_step >= self.steps:
            self.result = "SUCCEEDED"

    def _submit(self):
        if self.submitter != "follows" or self.now < self.submitter_next:
            return
        if not self._up():
            if self.submitter_tries and self.followed:  # its log broke off
                self._submitter_fails()
            return  # else it waits for the dashboard
        if self.at_step is None:
            if self.followed:
                self._submitter_fails()
                return
            self.at_step = self.store.step  # resume: what the stage's command does first
        self.followed = True
        if self.result:
            self.submitter, self.finished_at = "done", self.now

    def _submitter_fails(self):
        self.followed = False
        self.submitter_tries += 1
        if self.submitter_tries >= SUBMITTER_TRIES:
            self.submitter, self.finished_at = "failed", self.now
        else:
            self.submitter_next = self.now + FOLLOW_S + SUBMITTER_WAIT_S[self.submitter_tries - 1]

    def _reconcile(self):
        state = self.status["jobDeploymentStatus"]
        {"": self._new, "Initializing": self._initializing, "Running": self._running, "Retrying": self._retrying,
         "Complete": self._ended, "Failed": self._ended}[state]()  # fmt: skip

    def _new(self):
        self.started = self.now
        self._to("Initializing")

    def _initializing(self):
        if self._late():
            return
        if self.now - self.started > self.spec["preRunningDeadlineSeconds"]:
            self._fail("PreRunningDeadlineExceeded", "the RayJob did not run in time")
            return
        if not self.clusters:
            self.made += 1
            self.clusters.add(self.made)
            self.head_ready, self.at_step, self.result = self.now + HEAD_S, None, ""
        if self._up():
            self.submitter, self.submitter_tries, self.submitter_next, self.followed = "follows", 0, self.now, False
            self.finished_at = None
            self._to("Running")

    def _running(self):
        if self._late():
            return
        if self.finished_at is not None and self.now - self.finished_at > FINISHED_GRACE_S and not self._known():
            self._fail(
                "JobDeploymentStatusTransitionGracePeriodExceeded", "the submitter ended, the job's end is unknown"
            )
        elif self._up() and self.at_step is None and self.finished_at is not None:
            self._fail("AppFailed", "Submitter completed but Ray job not found in RayCluster.")
        elif self._known():
            self.status["jobStatus"] = self.result
            self._to("Complete")
        elif self._up() and self.at_step is not None:
            self.status["jobStatus"] = self.result or "RUNNING"

    def _known(self):
        """The Ray job has ended, and so has its submitter."""
        return self._up() and bool(self.result) and self.finished_at is not None

    def _retrying(self):
        self.clusters.clear()
        self.submitter, self.head_ready, self.at_step, self.result = "", None, None, ""
        self.status |= {"jobStatus": "", "reason": "", "message": ""}
        self._to("")

    def _ended(self):
        if self.now - self.ended_at >= self.spec["ttlSecondsAfterFinished"] and self.spec["shutdownAfterJobFinishes"]:
            self.clusters.clear()

    def _late(self):
        if self.now - self.started <= self.spec["activeDeadlineSeconds"]:
            return False
        self._fail("DeadlineExceeded", "The RayJob has passed the activeDeadlineSeconds.")
        return True

    def _fail(self, reason, message):
        self.status |= {"reason": reason, "message": message, "failed": self.status["failed"] + 1}
        again = self.status["failed"] < self.spec["backoffLimit"] + 1 and reason != "DeadlineExceeded"
        self._to("Retrying" if again else "Failed")

    def _to(self, state):
        self.status["jobDeploymentStatus"] = state
        if state in ("Complete", "Failed"):
            self.ended_at = self.now

    @property
    def over(self):
        """Ended, and its time to be kept is over."""
        return (
            self.ended_at is not None and self.now > self.ended_at + self.spec["ttlSecondsAfterFinished"] + RECONCILE_S
        )
