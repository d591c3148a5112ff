"""Stop the controller that runs, if one does."""

from place import running_pid
from restart import stop

if __name__ == "__main__":
    pid = running_pid()
    if pid is None:
        print("no controller runs")
    else:
        stop(pid)
        print("stopped")
