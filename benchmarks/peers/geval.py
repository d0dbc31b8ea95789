"""deepeval's G-Eval on the same questions, in the environment that `make bench` makes: python geval.py URL QUESTIONS IN_FLIGHT

Prints seconds of wall clock and of the processor as JSON; imports are not counted. Steps are given, so that each text is one
request; a metric object holds the state of one measurement, so each has its own, as in deepeval's own evaluate().
"""

import asyncio
import json
import os
import sys
import time

os.environ |= {"DEEPEVAL_TELEMETRY_OPT_OUT": "1", "DEEPEVAL_UPDATE_WARNING_OPT_IN": "0"}

from deepeval.metrics import GEval
from deepeval.models import LocalModel
from deepeval.test_case import LLMTestCase, SingleTurnParams

STEPS = ["Does the reply take up the patient's words?", "Does it show that the feeling is understood?"]
READ = [SingleTurnParams.INPUT, SingleTurnParams.ACTUAL_OUTPUT]


async def all_of_them(url: str, questions: int, in_flight: int) -> list[float]:
    model, gate = LocalModel(model="m", base_url=url, api_key="none"), asyncio.Semaphore(in_flight)

    async def one(k: int) -> float:
        async with gate:
            metric = GEval(name="empathy", evaluation_steps=STEPS, evaluation_params=READ, model=model)
            case = LLMTestCase(input="質問です。", actual_output=f"質問{k}" * 100)
            return await metric.a_measure(case, _show_indicator=False)

    return await asyncio.gather(*map(one, range(questions)))


if __name__ == "__main__":
    url, questions, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    wall, processor = time.perf_counter(), time.process_time()
    scores = asyncio.run(all_of_them(url, questions, in_flight))
    assert len(scores) == questions and len(set(scores)) == 1, "not one score for each question"
    print(json.dumps({"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}))
