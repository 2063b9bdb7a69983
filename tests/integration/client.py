"""A client for tests: one request to one comparable answer."""

import dataclasses
import functools
import struct
import threading

import grpc

from cluster import MESSAGE_BYTES

SPLIT = 1 << 20  # no message of a stream is much longer


def error_details(error, kind):
    """The messages of this kind in an error's google.rpc.Status."""
    from google.rpc import status_pb2
    found = []
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                detail = kind()
                if packed.Unpack(detail):
                    found.append(detail)
    return found


@dataclasses.dataclass
class Answer:
    """What a stream said. `key()` is everything that must be equal bit for bit."""
    ids: list = dataclasses.field(default_factory=list)
    pieces: list = dataclasses.field(default_factory=list)  # the bytes of each
    logprobs: list = dataclasses.field(default_factory=list)
    ranks: list = dataclasses.field(default_factory=list)
    candidates: list = dataclasses.field(default_factory=list)
    prompt_ids: list = dataclasses.field(default_factory=list)
    prompt_logprobs: list = dataclasses.field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    tool_calls: list = dataclasses.field(default_factory=list)
    prompt_token_count: int = 0
    seed: int = 0
    finish: object = None
    request_id: str = ""
    largest_message: int = 0

    def take(self, response, pb):
        """The next response of this sample; checks their order."""
        self.largest_message = max(self.largest_message, response.ByteSize())
        assert self.finish is None, "a message after Finish"
        if self.request_id:
            assert response.request_id == self.request_id, "a stream mixes requests"
        self.request_id = response.request_id
        event = response.WhichOneof("event")
        if event == "prompt":
            assert not self.ids, "Prompt after Delta"
            assert response.prompt.first_index == len(self.prompt_logprobs) or not response.prompt.tokens
            self.prompt_token_count = response.prompt.token_count
            self.seed = response.prompt.seed
            self.prompt_ids.extend(response.prompt.token_ids)
            self.prompt_logprobs.extend(token.logprob for token in response.prompt.tokens)
        elif event == "delta":
            assert self.prompt_token_count, "Delta before Prompt"
            self._take_delta(response.delta, pb)
        else:
            self.finish = response.finish

    def _take_delta(self, delta, pb):
        for token in delta.tokens:
            self.ids.append(token.id)
            self.pieces.append(token.bytes)
            self.logprobs.append(token.logprob)
            self.ranks.append(token.rank)
            self.candidates.append([(c.id, c.logprob) for c in token.candidates])
        if delta.channel == pb.CHANNEL_REASONING:
            self.reasoning += delta.text
        elif delta.channel == pb.CHANNEL_CONTENT:
            self.text += delta.text
        if delta.HasField("tool_call"):
            self.tool_calls.append((delta.tool_call.name, delta.tool_call.arguments_json))

    def check_end(self):
        assert self.finish is not None, "the stream ended without Finish"
        assert self.finish.usage.completion_token_count == len(self.ids)
        assert self.finish.usage.prompt_token_count == self.prompt_token_count

    def key(self):
        return (tuple(self.ids), struct.pack(f"<{len(self.logprobs)}f", *self.logprobs), tuple(self.ranks),
                struct.pack(f"<{len(self.prompt_logprobs)}f", *self.prompt_logprobs), self.text, self.reasoning)


class Client:
    """Thread-safe; one channel of its own."""

    def __init__(self, target, channel_options=(), credentials=None):
        """`credentials`: of gRPC, for TLS."""
        from m1.v1 import control_pb2, control_pb2_grpc, inference_pb2, inference_pb2_grpc
        self.pb = inference_pb2
        self.control_pb = control_pb2
        # A channel of its own: gRPC shares connections between channels of equal arguments.
        connect = grpc.insecure_channel if credentials is None else functools.partial(
            grpc.secure_channel, credentials=credentials)
        self.channel = connect(target, options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_send_message_length", MESSAGE_BYTES + (1 << 20)),
            ("grpc.use_local_subchannel_pool", 1),
            *channel_options,
        ])
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.control = control_pb2_grpc.ControlStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.channel.close()

    def request(self, ids=None, text=None, chat=None, tools=None, max_new_tokens=None, min_new_tokens=None,
                temperature=None, top_p=None, top_k=None, min_p=None, seed=None, ignore_eos=None,
                prompt_logprobs=None, candidate_count=None, stop_token_ids=(), request_id=None,
                stop_strings=(), include_stop_text=None, sample_count=None, budget_tokens=None, closing_text=None,
                repetition_penalty=None, presence_penalty=None, frequency_penalty=None, logit_bias=None,
                generated_prompt_token_count=None):
        """Builds a request; `chat` is a list of (role, text)."""
        pb = self.pb
        request = pb.GenerateRequest(
            sampling=pb.Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed,
                                 sample_count=sample_count, repetition_penalty=repetition_penalty,
                                 presence_penalty=presence_penalty, frequency_penalty=frequency_penalty,
                                 logit_bias=logit_bias),
            stopping=pb.Stopping(max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens,
                                 ignore_eos=ignore_eos, stop_token_ids=stop_token_ids, stop_strings=stop_strings,
                                 include_stop_text=include_stop_text),
            thinking=pb.Thinking(budget_tokens=budget_tokens, closing_text=closing_text),
            output=pb.Output(prompt_logprobs=prompt_logprobs, candidate_count=candidate_count))
        if request_id is not None:
            request.request_id = request_id
        if generated_prompt_token_count is not None:
            request.generated_prompt_token_count = generated_prompt_token_count
        if ids is not None:
            request.token_ids.ids.extend(ids)
        if text is not None:
            request.text = text
        if chat is not None:
            for role, content in chat:
                request.chat.messages.add(role=pb.Role.Value("ROLE_" + role.upper()), text=content)
            for name, description, parameters_json in tools or ():
                request.chat.tools.add(name=name, description=description, parameters_json=parameters_json)
        return request

    def send(self, request, timeout=240):
        """The whole stream of a request with one sample."""
        [answer] = self.send_samples(request, timeout)
        return answer

    def send_samples(self, request, timeout=240, on_response=lambda count: None):
        """The answers by sample. `on_response` gets the number of responses before."""
        answers = {}
        for count, response in enumerate(self.inference.Generate(request, timeout=timeout)):
            answers.setdefault(response.sample_index, Answer()).take(response, self.pb)
            on_response(count)
        for answer in answers.values():
            answer.check_end()
        assert sorted(answers) == list(range(max(1, request.sampling.sample_count)))
        return [answers[index] for index in sorted(answers)]

    def generate(self, timeout=240, **kwargs):
        return self.send(self.request(**kwargs), timeout)

    def send_all(self, requests, timeout=240):
        """All at once, one thread each; answers in order. Raises the first error."""
        answers = [None] * len(requests)
        errors = []

        def run(index):
            try:
                answers[index] = self.send(requests[index], timeout)
            except Exception as error:  # shown by the caller
                errors.append((index, error))

        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise AssertionError(f"{len(errors)} of {len(requests)} failed; request {errors[0][0]}: {errors[0][1]}")
        return answers

    def send_all_in_background(self, requests):
        """The running thread of send_all, and the list that gets its answers."""
        answers = []
        thread = threading.Thread(target=lambda: answers.extend(self.send_all(requests)))
        thread.start()
        return thread, answers

    def load(self):
        return self.control.GetLoad(self.control_pb.GetLoadRequest(), timeout=60)

    def topology(self):
        return self.control.GetTopology(self.control_pb.GetTopologyRequest(), timeout=60)
