"""Nothing is lost: the rating server killed again and again, and fifty raters at once."""

import random
import sqlite3
import threading
import time
from http.client import HTTPException
from pathlib import Path

import pytest

from emplifai.records import CRITERIA
from rating_study import Rater, Server, draw, make, stored


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("rating"))


def click(server: Server, token: str, saved: dict, stop: threading.Event, seed: int) -> None:
    """A rater who goes on clicking whatever happens; `saved` holds what the page was told is saved."""
    draw_score, rater = random.Random(seed), None
    while not stop.is_set():
        try:
            if rater is None:
                rater = Rater(server.port, token)
            position = rater.position
            if position is None:
                return
            for criterion in CRITERIA:
                score = draw_score.randint(1, 5)
                was = saved.get((position, criterion), "")
                while True:
                    status, answer = _insist(rater, stop, position=position, **{criterion: score, f"was_{criterion}": was})
                    if status == 200:
                        saved[position, criterion] = score
                        break
                    assert status == 409, answer  # an answer was lost on the way: the page takes over what is saved
                    was = answer["saved"].get(criterion, "")
            status, _ = _insist(rater, stop, position=position, next=1)
            assert status == 200
        except (OSError, HTTPException):
            time.sleep(0.02)


def _insist(rater: Rater, stop: threading.Event, **fields) -> tuple[int, dict]:
    """Send again until there is an answer, as the page does."""
    while True:
        try:
            return rater.send(**fields)
        except (OSError, HTTPException):
            if stop.is_set():
                raise
            time.sleep(0.02)


@pytest.mark.slow
def test_twenty_times_kill_9_loses_and_doubles_nothing(folder):
    project, tokens = draw(folder, "killed", "--raters", "3", "--items", "100", "--seed", "1")
    saved: dict[str, dict] = {rater: {} for rater in tokens}
    stop, faults, chance = threading.Event(), [], random.Random(0)

    def guarded(rater: str, seed: int) -> None:
        try:
            click(server, tokens[rater], saved[rater], stop, seed)
        except (OSError, HTTPException):
            pass  # in the middle of the last request
        except BaseException as error:
            faults.append(error)

    with Server(project) as server:
        for token in tokens.values():
            Rater(server.port, token).begin()
        threads = [threading.Thread(target=guarded, args=(rater, k)) for k, rater in enumerate(tokens)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            wanted = sum(map(len, saved.values())) + chance.randint(2, 9)
            end = time.monotonic() + 60
            while sum(map(len, saved.values())) < wanted and not faults:
                assert time.monotonic() < end, "raters do not get on"
                time.sleep(0.001)
            time.sleep(0.03 * chance.random())  # at any moment of a request
            server.kill()
            server.start()
        time.sleep(0.3)
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not faults
    for rater in tokens:
        found = stored(project, rater)
        assert saved[rater].items() <= found.items()
        assert len(found) - len(saved[rater]) <= 1  # the request in the air at the end
    with sqlite3.connect(project / "ratings.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_fifty_raters_at_once(folder):
    project, tokens = draw(folder, "fifty", "--raters", "50", "--items", "5", "--repeat", "0.2")
    given: dict[str, dict] = {}

    def work(rater: str, seed: int) -> None:
        chance = random.Random(seed)
        person = Rater(server.port, tokens[rater])
        person.begin()
        given[rater] = person.rate_all(lambda position, criterion: chance.randint(1, 5))

    with Server(project) as server:
        threads = [threading.Thread(target=work, args=(rater, k)) for k, rater in enumerate(tokens)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
    assert len(given) == 50
    assert all(stored(project, rater) == given[rater] for rater in tokens)
    assert sum(map(len, given.values())) == 50 * 7 * 3  # 5 replies, one copy, one check
