"""Small sabotages of the runtime, each with the test that must fail then. `make leak-selfcheck` tries all.

A leak test that cannot fail tests nothing: whoever weakens one finds here the bug that it no longer finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bug:
    """One sabotage: in `file`, `old` (which stands there once) becomes `new`; then `test` must fail."""

    what: str
    promise: str
    file: str
    old: str
    new: str
    test: str


KERNEL, MONITOR, CALLS = "chiron/policy/kernel.py", "chiron/guest_api/monitor.py", "chiron/guest_api/calls.py"
FRAMES, SERVER = "paramserver/frames.py", "paramserver/server.py"
RELEASER, PROCESS = "chiron/guest_api/releaser.py", "chiron/guest_api/process.py"
WIRE, SEALED, LEAD = "chiron/training/wire.py", "chiron/training/sealed.py", "chiron/training/lead.py"
QUERY, BLACKBOX = "chiron/serving/query.py", "chiron/serving/blackbox.py"
EXECUTION, STREAM = "wasm_sandbox/execution.py", "enclave/stream.py"
T_KERNEL, T_CALLS = "tests/policy/test_kernel.py", "tests/training/test_host_calls.py"
T_FRAMES, T_PROCESS = "tests/training/test_paramserver_frames.py", "tests/training/test_guest_process.py"
T_LEAD = "tests/training/test_lead.py"
T_QUERY, T_FINDS = "tests/serving/test_query.py", "tests/leakage/test_leaktest_finds.py"
T_ENVELOPE, T_LEDGER = "tests/attestation/test_envelope.py", "tests/training/test_ledger.py"

BUGS: Final = (
    Bug(
        "a frame leaves only where something was written",
        "NI-4", KERNEL,
        "        for name in phase.frames  # NI-4",
        "        for name in phase.frames if state.sinks.get(name, EMPTY).size  # NI-4",
        f"{T_KERNEL}::test_the_log_leaves_at_the_tick_in_a_frame_of_fixed_size_for_the_operator_alone",
    ),
    Bug(
        "a denied call stops the job at once",
        "NI-4", KERNEL,
        "    return replace(state, alive=False), Reply.DENIED, ()  # SAND-14",
        "    return replace(state, alive=False), Reply.DENIED, (Stopped(StopReason.PLATFORM_FAULT),)",
        f"{T_KERNEL}::test_nothing_leaves_at_a_call_or_a_fault",
    ),
    Bug(
        "reading data leaves no label",
        "NI-2", KERNEL,
        "        return _with(state, state.label.join(source), state.sinks), Reply.GRANTED, ()",
        "        return state, Reply.GRANTED, ()",
        f"{T_KERNEL}::test_reading_data_adds_the_users_label",
    ),
    Bug(
        "secrets stay in their sinks when the phase is over",
        "NI-4", KERNEL,
        "    return _renewed(policy, replace(following, sinks=_emptied(policy))), events",
        "    return following, events",
        f"{T_KERNEL}::test_secrets_in_sinks_are_gone_when_their_phase_is_over",
    ),
    Bug(
        "a release is as wide as its value",
        "NI-5", KERNEL,
        "    return Release(name, rule.to, rule.bits, value % (1 << rule.bits))",
        "    return Release(name, rule.to, rule.bits, value)",
        f"{T_KERNEL}::test_a_release_is_cut_to_its_declared_bits[outcome]",
    ),
    Bug(
        "the guest's process moves the lead's clock",
        "NI-4", MONITOR,
        "        self.state = replace(self.state, label=label, alive=alive, sinks=sinks)",
        "        self.state = replace(reached, label=label, alive=alive, sinks=sinks)",
        f"{T_CALLS}::test_a_state_that_comes_back_from_the_guests_process_moves_no_clock_budget_or_ledger",
    ),
    Bug(
        "a slot ends when the guest ends",
        "TRAIN-4", MONITOR,
        "        self._step(kernel.Fault())",
        "        self._step(kernel.Fault())\n        self.tick()",
        f"{T_FINDS}::test_nothing_is_found_without_the_weakening[traps-operator]",
    ),
    Bug(
        "data are read without asking the kernel",
        "NI-1", CALLS,
        "        self._granted(name)\n        if self._dataset is None:",
        "        if self._dataset is None:",
        f"{T_CALLS}::test_reading_data_taints_the_guest",
    ),
    Bug(
        "a log line with a value",
        "NI-4", CALLS,
        "        values = self._statistics_of.answer(kind, index)",
        "        values = self._statistics_of.answer(kind, index)\n"
        "        __import__('logging').getLogger('chiron').warning('statistics: %s', values)",
        f"{T_FINDS}::test_nothing_is_found_without_the_weakening[plans-operator]",
    ),
    Bug(
        "a guest's own random is not its seed's",
        "SAND-12", CALLS,
        "        domain = self._seed + self._monitor.state.phase.encode()",
        "        domain = __import__('os').urandom(8) + self._monitor.state.phase.encode()",
        f"{T_CALLS}::test_random_is_the_same_for_the_same_seed_phase_and_call",
    ),
    Bug(
        "a shorter vector leaves the end of the one before in its frame",
        "TRAIN-2", FRAMES,
        "        payload[count:] = 0  # TRAIN-2",
        "        pass  # TRAIN-2",
        f"{T_FRAMES}::test_a_shorter_vector_leaves_nothing_of_the_one_before",
    ),
    Bug(
        "an empty frame is short",
        "TRAIN-2", FRAMES,
        "        put_slot(buffer, slot)\n        return bytes(buffer)",
        "        put_slot(buffer, slot)\n        return bytes(buffer[: None if kind else _HEADER.size])",
        f"{T_FRAMES}::test_every_frame_has_the_size_of_an_empty_one",
    ),
    Bug(
        "a frame may hide bytes behind its vector",
        "TRAIN-2", FRAMES,
        '        _require("unused", holds=not np.bitwise_or.reduce(words[count:]))',
        "        np.bitwise_or.reduce(words[count:])",
        f"{T_FRAMES}::test_a_broken_rule_is_named",
    ),
    Bug(
        "the server sends as soon as it can",
        "TRAIN-1", SERVER,
        "                self._clock.sleep_until(schedule.server_tick(start, slot))",
        "                pass",
        "tests/training/test_paramserver_ticks.py::test_the_server_waits_for_its_own_ticks_and_for_the_end",
    ),
    Bug(
        "an early end of the exchange where the optimiser fails",
        "TRAIN-4", SERVER,
        "                    fault = self._train(training, item)",
        "                    if (fault := self._train(training, item)) is not None:\n"
        "                        raise fault",
        "tests/training/test_paramserver_faults.py"
        "::test_a_failed_optimiser_is_raised_from_its_cause_after_the_last_slot",
    ),
    Bug(
        "an early slot end",
        "TRAIN-4", RELEASER,
        "    _sleep_until(end_at)  # TRAIN-4",
        "    pass  # TRAIN-4",
        f"{T_PROCESS}::test_whatever_a_guest_does_it_is_killed_at_half_slot_"
        "and_nothing_is_let_go_before_the_slots_end",
    ),
    Bug(
        "a guest that does not end is not killed",
        "SAND-5", RELEASER,
        "        signal.pidfd_send_signal(guest, signal.SIGKILL)  # SAND-5",
        "        pass  # SAND-5",
        f"{T_PROCESS}::test_whatever_a_guest_does_it_is_killed_at_half_slot_"
        "and_nothing_is_let_go_before_the_slots_end",
    ),
    Bug(
        "the guest's process ends when it likes",
        "TRAIN-4", "chiron/training/create.py",
        "            releaser.wait_for_half()",
        "            pass",
        "tests/training/test_create.py"
        "::test_the_guests_process_ends_at_half_slot_also_where_the_guest_is_done_before",
    ),
    Bug(
        "a skipped pad",
        "CONF-4", WIRE,
        '    return (_LENGTH.pack(len(content)) + content).ljust(size, b"\\0")',
        "    return _LENGTH.pack(len(content)) + content",
        "tests/training/test_wire.py::test_what_is_padded_comes_back_in_one_size",
    ),
    Bug(
        "a reply as long as the log",
        "NI-4", WIRE,
        "    room = size - len(encoded) - len(_FILL) - _FILLING.size",
        "    room = min(64, size - len(encoded) - len(_FILL) - _FILLING.size)",
        f"{T_FINDS}::test_nothing_is_found_without_the_weakening[greets-user]",
    ),
    Bug(
        "a sealed model as long as its graph",
        "CONF-4", SEALED,
        "    graph = pad(model.graph, graph_message_bytes(header))  # CONF-4",
        "    graph = pad(model.graph, len(model.graph) + 8)  # CONF-4",
        "tests/training/test_sealed_models.py::test_a_sealed_model_has_one_size_a_header",
    ),
    Bug(
        "the user may read the operator's log",
        "NI-3", LEAD,
        '        case "log" if is_operator:',
        '        case "log":',
        f"{T_LEAD}::test_a_party_is_answered_what_is_its_own_and_no_more",
    ),
    Bug(
        "the lead's refusal has the error's text",
        "ERR-1", LEAD,
        '            return {"error": Code.BAD_REQUEST.value}',
        '            return {"error": str(request)}',
        f"{T_LEAD}::test_a_request_of_another_form_is_answered_with_a_code",
    ),
    Bug(
        "an answer leaves when it is ready",
        "SERVE-2", QUERY,
        "    time.sleep(max(1, math.ceil(elapsed / grid_s)) * grid_s - elapsed)  # SERVE-2",
        "    pass  # SERVE-2",
        f"{T_QUERY}::test_no_outcome_comes_before_the_grids_first_point",
    ),
    Bug(
        "an answer as long as its text",
        "SERVE-1", "chiron/serving/protocol.py",
        '    return raw + b" " * (size - len(raw))  # SERVE-1',
        "    return raw  # SERVE-1",
        "tests/serving/test_protocol.py::test_the_largest_answer_and_metadata_fit_the_policys_size",
    ),
    Bug(
        "an error text passed through",
        "ERR-2", QUERY,
        '            return error.fault.status, {"error": error.fault.text}',
        '            return error.fault.status, {"error": f"{error.fault.text}: {error.__cause__!r}"}',
        f"{T_QUERY}::test_an_error_is_a_constant_text_of_the_closed_list",
    ),
    Bug(
        "whoever asks learns which models exist",
        "SERVE-4", QUERY,
        "        model = self.models.get(job)\n",
        "        model = self.models.get(job)\n"
        "        if model is None:\n"
        "            raise FaultError(Fault.NOT_FOUND)\n",
        f"{T_QUERY}::test_an_unknown_model_and_a_wrong_user_look_the_same",
    ),
    Bug(
        "an answer leaves before it is counted",
        "SERVE-3", BLACKBOX,
        "                self.budget.commit(self.budget.used + len(rows))  # SERVE-3",
        "                self.budget.used += len(rows)  # SERVE-3",
        f"{T_QUERY}::test_the_count_is_on_disk_before_the_answer_leaves",
    ),
    Bug(
        "a transform that ends early is answered early",
        "SERVE-9", BLACKBOX,
        "                time.sleep(max(0.0, ends - time.monotonic()))",
        "                pass",
        "tests/serving/test_transforms.py::test_a_transforms_slot_ends_on_time_whatever_the_guest_does",
    ),
    Bug(
        "a reused instance",
        "SAND-6", EXECUTION,
        "    request = _Request(binding, limits=limits)  # SAND-6\n"
        "    try:\n"
        "        outcome = request.execute(calls, export=export)\n"
        "    finally:\n"
        "        request.close()",
        "    request = _KEPT.setdefault(id(binding), None) or _Request(binding, limits=limits)  # SAND-6\n"
        "    if _KEPT[id(binding)] is None:\n"
        "        _KEPT[id(binding)] = request\n"
        "        outcome = request.execute(calls, export=export)\n"
        "    else:\n"
        "        outcome = request._outcome(Ending.RETURNED, value=request._running.call(export))",
        "tests/sandbox/test_run.py::test_each_run_has_a_fresh_memory",
    ),
    Bug(
        "pages of memory are touched by the guest first",
        "SAND-2", EXECUTION,
        "            self._memory.touch_all()",
        "            pass",
        "tests/sandbox/test_run.py::test_all_memory_is_resident_before_the_guest_runs",
    ),
    Bug(
        "a host call's error is raised into wasmtime",
        "SAND-7", EXECUTION,
        "                self._stop(name, error)\n                return _STOPPED_STATUS",
        "                self._stop(name, error)\n                raise",
        "tests/sandbox/test_run.py::test_a_fault_leaves_nothing_in_the_wasmtime_package",
    ),
    Bug(
        "machine code is not looked at before it runs",
        "SAND-9", "wasm_sandbox/image.py",
        "    if not hmac.compare_digest(\n        bytes(image[:MAC_BYTES]), expected\n    ):",
        "    if not expected:",
        "tests/sandbox/test_image.py::test_an_image_of_another_guest_key_or_settings_is_refused",
    ),
    Bug(
        "the guest's process is told the whole environment",
        "SAND-1", PROCESS,
        "        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}",
        "        environment = dict(os.environ)",
        f"{T_PROCESS}::test_the_child_is_told_nothing_of_the_environment",
    ),
    Bug(
        "the length of an encrypted file shows its content's",
        "CONF-3", STREAM,
        "    total = _LENGTH.size + (size if padded_bytes is None else padded_bytes)",
        "    total = _LENGTH.size + size",
        f"{T_ENVELOPE}::test_padding_hides_the_length_and_is_removed",
    ),
    Bug(
        "an envelope opens for another purpose",
        "CONF-2", "enclave/envelope.py",
        "    encoded = purpose.encode()",
        '    encoded, context = b"", b""',
        f"{T_ENVELOPE}::test_another_purpose_or_context_does_not_open_it",
    ),
    Bug(
        "the exact number of rows is the public size",
        "CONF-3", "chiron/guest_api/chunks.py",
        "    out = bytearray(layout.chunk_bytes)  # CONF-3",
        "    out = bytearray(layout.chunk_bytes + counts.rows)  # CONF-3",
        "tests/training/test_dataset.py::test_two_row_counts_of_one_size_class_have_one_size",
    ),
    Bug(
        "chunks are read at the compute's pace",
        "TRAIN-10", "chiron/training/batches.py",
        "            return self._chunks[place]",
        "            self._asked += 1  # and so the next one is read\n            return self._chunks[place]",
        "tests/training/test_batches.py"
        "::test_what_is_read_at_which_slot_is_the_same_for_other_rows_counts_and_pace",
    ),
    Bug(
        "who holds a data set's key may show a worker other rows",
        "JOB-4", "enclave/chunks.py",
        "        if not hmac.compare_digest(hashlib.sha256(sealed).digest(), expected):  # JOB-4",
        "        if not expected:  # JOB-4",
        "tests/training/test_batches.py"
        "::test_even_who_holds_the_key_cannot_show_a_worker_other_rows_than_were_approved",
    ),
    Bug(
        "Evidence of another connection is taken",
        "ATT-2", "enclave/channel.py",
        "nonce=nonce, now=int(time.time()))  # ATT-2",
        "nonce=None, now=int(time.time()))  # ATT-2",
        "tests/attestation/test_channel_attacks.py"
        "::test_fresh_evidence_with_the_nonce_of_another_connection_is_refused",
    ),
    Bug(
        "Evidence speaks for any key",
        "ATT-3", "enclave/identity.py",
        "    if claims.statements.get(PUBKEY_HASH) != pubkey_statement(certificate.public_key()):  # ATT-3",
        "    if not claims.statements:  # ATT-3",
        "tests/attestation/test_channel.py::test_evidence_that_is_relayed_under_another_tls_key_is_refused",
    ),
    Bug(
        "other code than expected is trusted",
        "ATT-1", "enclave/verifier.py",
        "    if quote.measurement != reference.measurement:",
        "    if not quote.measurement:",
        "tests/attestation/test_channel.py::test_a_peer_with_another_measurement_is_refused_by_either_side",
    ),
    Bug(
        "a signature is good on every connection",
        "JOB-1", "chiron/training/agreement.py",
        "    _verify(party, signature, _REQUEST_DOMAIN + exporter + request,",
        "    _verify(party, signature, _REQUEST_DOMAIN + request,",
        "tests/training/test_agreement.py"
        "::test_a_request_is_valid_on_its_connection_by_its_party_alone",
    ),
    Bug(
        "a job goes on before its charge is on the disk",
        "NI-9", "chiron/training/ledger.py",
        "            self._commit(data_set, monitor.state.spent)  # NI-9",
        "            pass  # NI-9",
        f"{T_LEDGER}::test_a_charge_survives_a_restart_and_the_next_adds_to_it",
    ),
    Bug(
        "two jobs at once get the same last bits",
        "NI-9", "chiron/training/ledger.py",
        "        with self._lock:\n            monitor.note_spent(self.spent(data_set))",
        "        if True:\n            monitor.note_spent(self.spent(data_set))",
        f"{T_LEDGER}::test_two_jobs_at_once_do_not_both_get_the_last_bits",
    ),
    Bug(
        "a loss is told to its last bit",
        "NI-5", "chiron/training/results.py",
        "    return round(min(float(LOSS_TOP), max(0.0, loss / LOSS_STEP)))",
        "    return round(loss * 1e6)",
        "tests/training/test_results.py::test_a_loss_is_released_in_eight_bits",
    ),
    Bug(
        "a refused graph is told with its values",
        "ERR-4", "chiron/graph/tensors.py",
        'f"{name} holds NaN or infinity: check how the guest draws it"',
        'f"{name} holds {array}: check how the guest draws it"',
        "tests/graph/test_admission_bytes.py::test_a_refusal_holds_no_value_of_a_tensor",
    ),
    Bug(
        "a dying thread tells its error's text",
        "ERR-4", "chiron/launch/role.py",
        "{ended.exc_type.__name__}",
        "{ended.exc_value}",
        "tests/leakage/test_error_texts.py::test_a_thread_that_dies_tells_its_kind_of_error_alone",
    ),
)  # fmt: skip
