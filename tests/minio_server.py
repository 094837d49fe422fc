"""A real MinIO on a free loopback port, where the program is on the PATH; the S3 tests run on it as on SeaweedFS."""

import os
import shutil
import subprocess

from tests.seaweedfs_server import ACCESS, SECRET, SeaweedServer, end_with_parent, free_port

PROGRAM = shutil.which("minio")


class MinioServer(SeaweedServer):
    """The server of one folder, with the same methods; it can be killed and started repeatedly, on the same port."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        self.log = folder / "minio.log"
        self.set_endpoint(free_port())

    def start(self):
        command = [PROGRAM, "server", str(self.folder / "data"), "--address", self.endpoint.removeprefix("http://"),
                   "--console-address", f"127.0.0.1:{free_port()}"]  # fmt: skip
        environment = {**os.environ, "MINIO_ROOT_USER": ACCESS, "MINIO_ROOT_PASSWORD": SECRET}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment,
                                            start_new_session=True, preexec_fn=end_with_parent)  # fmt: skip
        return self.started()
