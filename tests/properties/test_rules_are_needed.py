"""Each rule that keeps documents equal is needed: without it the convergence test fails.

Every mutant below switches one rule off, in the real code or in the shells of the world, and plays
the same game as `test_convergence`. `CATCHERS` says which check catches which mutant.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import sync.author
import sync.follower
import sync.replica
import sync.session
from sync.client_ids import client_id
from sync.documents import DocumentName, Side
from sync.gate import Admission
from sync.replica import Applied, Holding, Replica
from sync.session import Step
from sync.vector import Vector
from tests.fakes.world import Line, Machine, Steps, World
from tests.properties.test_convergence import Convergence

class OneIdWorld(World):
    def client_id(self, machine: Machine, counter: int) -> int:
        return client_id(machine.side, 1, 1)

class HastyMachine(Machine):
    persists_first = False

class HastyWorld(World):
    machine = HastyMachine

class HastyFollower(Machine):
    @property
    def persists_first(self): return self.side is Side.DEVICE

class HastyFollowerWorld(World):
    machine = HastyFollower

class ProudMachine(Machine):
    def rebase(self, document, theirs):
        yield "ignored"

class ProudWorld(World):
    machine = ProudMachine

@contextmanager
def last_event_only():
    events={}
    real_commit=Machine.commit
    real_diff=sync.session.diff_of
    def commit(self, document, holding):
        before=self.shelf(document)
        since = before.vector if before is not None and before.epoch==holding.epoch else {}
        events[holding.state]=real_diff(holding,since)
        real_commit(self,document,holding)
    def diff_of(own,since):
        return events[own.state]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine,'commit',commit)
        patch.setattr(sync.session,'diff_of',diff_of)
        yield

def unchecked_merge(holding, update, admission):
    scratch=Replica(client_id=1,state=holding.state)
    before=scratch.values()
    scratch.apply(update)
    after=scratch.values()
    return Applied(Holding(holding.epoch,scratch.state(),scratch.vector(),holding.absorbed),{k:v for k,v in after.items() if before.get(k)!=v})


def admit_blindly(update, held, writer):
    vector = {**held, 0: 1} if held else Replica(client_id=1, state=update).vector()
    return Admission(vector, (), True)

@contextmanager
def gate_off(tag=True,stranger=True):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync.follower,'admit',admit_blindly)
        patch.setattr(sync.session,'admit',admit_blindly)
        patch.setattr(sync.follower,'merge',unchecked_merge)
        patch.setattr(sync.replica,'merge',unchecked_merge)
        patch.setattr(sync.follower,'tag_of',lambda v:b'')
        patch.setattr(sync.session,'tag_of',lambda v:b'')
        import tests.properties.test_convergence as T
        patch.setattr(T,'tag_of',lambda v:b'')
        if not stranger:
            patch.setattr(World,'forge',lambda *a:None)
        yield

@contextmanager
def tag_off():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync.follower,'tag_of',lambda v:b'')
        patch.setattr(sync.session,'tag_of',lambda v:b'')
        import tests.properties.test_convergence as T
        patch.setattr(T,'tag_of',lambda v:b'')
        yield

@contextmanager
def no_upkeep():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync.author.Author,'upkeep',lambda self: False)
        yield

MUT={
 'none':(World,nullcontext),
 '1':(OneIdWorld,nullcontext),
 '2':(HastyWorld,nullcontext),
 '2f':(HastyFollowerWorld,nullcontext),
 '3':(World,last_event_only),
 '4':(World,gate_off),
 '4 honest':(World,lambda: gate_off(stranger=False)),
 '4 tag':(World,tag_off),
 '5':(ProudWorld,nullcontext),
 '6':(World,no_upkeep),
}
if __name__=='__main__':
    import sys,time,traceback
    n=int(sys.argv[1])
    for name,(w,ctx) in MUT.items():
        if len(sys.argv)>2 and name not in sys.argv[2:]: continue
        count=[0]
        class M(Convergence):
            world_class=w
            def teardown(self):
                count[0]+=1
                super().teardown()
        t=time.time()
        try:
            with ctx():
                run_state_machine_as_test(M, settings=settings(max_examples=n,stateful_step_count=60,derandomize=True,database=None,deadline=None,suppress_health_check=list(HealthCheck),phases=[Phase.generate],report_multiple_bugs=False))
            print(name,'SURVIVES',count, time.time()-t)
        except BaseException as e:
            print(name,'caught',count,time.time()-t,type(e).__name__,str(e)[:150])
